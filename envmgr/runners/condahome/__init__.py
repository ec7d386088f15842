"""The drop-in conda home: what programs that call conda find instead of one, answered from a store.

::

    <home>/bin/conda               a sh script that starts `envmgr.runners.condahome.program` bare; see there
    <home>/bin/activate            for ``source <home>/bin/activate N``
    <home>/etc/profile.d/conda.sh  the shell function `conda`, for ``conda activate N``
    <home>/condabin/conda          -> ../bin/conda; this directory is added to PATH by whoever sources one of the two
    <home>/envs                    -> <root>/envs of the one store that the home belongs to
    <home>/envmgr-condahome        says whose the directory is, so that a second installation may replace its files

MLflow, Ray, MLSQL/Byzer and BigDL call a dozen forms of command lines of conda, find out from a listing whether an
environment is there, and create it by its name where it is not, without any lock. Here the name ``-n N`` is an alias of
the environment that the file's text stands for, so that

* creating is `envmgr.ensure`: it blocks until the environment is whole, one build serves all, and what exists for the
  same spec is success; under a name that stands for another spec it is an error, never the old environment;
* only what is ready is listed, activated and run in, and none of these ever creates;
* removing drops the alias, and no prefix: that is the collection's work, which respects leases;
* who failed to create N and then removes it, as those programs do when something goes wrong, removes nothing: N is
  somebody else's (`envmgr.runners.condahome.failures`).

Not promised: what conda does besides. Packages are not installed into what is there, there is no base environment, and
every other command is refused or handed to the site's own conda, as the setting ``pass_conda_commands`` says.
"""
