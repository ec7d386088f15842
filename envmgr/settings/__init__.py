"""Every setting, where it comes from, and what it means for a build.

`load` reads the sources; `schema` is the table of all settings; `listing` shows them without passwords; `lookup`
turns them into the records that the builder gets (a module of its own, because those records cost a start-up).

What is here is imported when it is asked for: `kinds` also reads options of commands that need no settings.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envmgr.settings.loading import Settings, load
    from envmgr.settings.schema import Mode
    from envmgr.settings.sources import Source
else:

    def __getattr__(name: str) -> object:
        # The package's modules, too, are looked for here before they are imported.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from envmgr.settings import loading, schema, sources  # noqa: PLC0415 - see above

        return getattr({"Mode": schema, "Source": sources}.get(name, loading), name)


__all__ = ["Mode", "Settings", "Source", "load"]
