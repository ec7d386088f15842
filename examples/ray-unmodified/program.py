"""A program that knows Ray's own pip and conda, and nothing of envmgr."""

import sys

import ray


@ray.remote
def count(number):
    import humanize

    return humanize.intword(number), sys.prefix


@ray.remote
def plural(word):
    import inflection

    return inflection.pluralize(word), sys.prefix


if sys.argv[1] == "pip":
    ray.init(runtime_env={"pip": ["humanize"]})
    text, where = ray.get(count.remote(1_200_000), timeout=120)
else:
    ray.init(runtime_env={"conda": {"dependencies": ["python", "pip", {"pip": ["inflection"]}]}})
    text, where = ray.get(plural.remote("environment"), timeout=120)
print(f"{sys.argv[1]}: {text}, in {where}")
