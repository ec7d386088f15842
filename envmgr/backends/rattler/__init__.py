"""Everything that is done with rattler: solving, fetching bytes, unpacking, linking; the only home of ``rattler``.

To be imported in a builder only (`envmgr.builder`): rattler's threads hang in a forked child, cannot be cancelled, and
may crash the interpreter at its exit unless the process ends with `os._exit`.

What rattler is *not* trusted with: hashes (it does not check them from ``file://``, and believes what was once
unpacked), downloads while it links (one exclusive lock for all of it), and link scripts (whose failure it hides). Those
are `envmgr.backends.archives` and `link.run_scripts`.
"""
