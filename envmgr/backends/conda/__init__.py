"""The site's own conda, mamba or micromamba as a backend, instead of rattler.

What is written here follows the documented interfaces and conda's own source. It is tried with conda 24.7 (the code
that conda-lock carries, with its classic solver), and with a stand-in that answers as mamba and micromamba are said to
answer; an installed one was not at hand.
"""
