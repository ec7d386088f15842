"""From normal forms to a `Spec`: the canonical text, the name, and the text that may be stored."""

from __future__ import annotations

from envmgr.errors import InvalidSpec
from envmgr.model import Spec
from envmgr.names import name_of_digest
from envmgr.spec.canonical import canonical_text, digest_of, lockfile_text
from envmgr.spec.document import Document, Mapping, Node, Scalar, decode, read_document
from envmgr.spec.lock_document import artifacts, is_lock_document
from envmgr.spec.pip_section import ReadInclude, reader_of
from envmgr.spec.problems import Findings
from envmgr.spec.reader import Reader
from envmgr.spec.urls import redact


def from_text(text: bytes | str, source: str, read_include: ReadInclude | None) -> Spec:
    """Read a document's text; raise `InvalidSpec`."""
    findings = Findings(source)
    decoded = decode(text, findings)
    return _assemble(read_document(decoded, findings), decoded, findings, read_include)


def from_root(root: Node, text: str, source: str, read_include: ReadInclude | None) -> Spec:
    """Read nodes that have no text of their own; `text` is YAML that says the same."""
    findings = Findings(source)
    return _assemble(Document("", root), decode(text, findings), findings, read_include)


def _assemble(document: Document, text: str, findings: Findings, read_include: ReadInclude | None) -> Spec:
    canonical, reader = _identify(document, findings, read_include)
    findings.raise_if_any()
    digest = digest_of(canonical)
    includes = reader.pip.includes if reader else {}
    clean, clean_includes = _without_credentials(text, includes, digest, findings)
    return Spec(
        channels=tuple(reader.channels) if reader else (),
        has_nodefaults=bool(reader and reader.has_nodefaults),
        conda=tuple(sorted(reader.conda, key=lambda it: (it.match_spec, it.platforms))) if reader else (),
        pip=reader.pip.requirements() if reader else (),
        pip_constraints=reader.pip.constraints() if reader else (),
        pip_options=reader.pip.options() if reader else (),
        variables=tuple(sorted(reader.variables.items())) if reader else (),
        platforms=tuple(sorted(reader.platforms)) if reader else (),
        is_lockfile=reader is None,
        canonical_text=canonical,
        digest=digest,
        name=name_of_digest(digest),
        label=reader.label if reader else None,
        warnings=findings.warnings(),
        source_text=clean,
        includes=tuple(sorted(clean_includes.items())),
    )


def _identify(document: Document, findings: Findings, read_include: ReadInclude | None) -> tuple[str, Reader | None]:
    """Return the canonical text, and the reader of what is not a lockfile."""
    root = _mapping(document.root, findings)
    if is_lock_document(root):
        return lockfile_text(artifacts(root, findings)), None
    reader = Reader(document, findings, read_include)
    reader.read(root)
    return _canonical(reader), reader


def _canonical(reader: Reader) -> str:
    return canonical_text(
        channels=reader.channels,
        has_nodefaults=reader.has_nodefaults,
        conda=reader.conda,
        pip=reader.pip.requirements(),
        pip_constraints=reader.pip.constraints(),
        pip_options=reader.pip.options(),
        variables=reader.variables.items(),
        platforms=reader.platforms,
    )


def _mapping(root: Node | None, findings: Findings) -> Mapping:
    if isinstance(root, Mapping):
        findings.raise_if_any()
        return root
    if root is None or (isinstance(root, Scalar) and root.is_null):
        findings.problem(1, 1, "the document is empty", "for example 'dependencies: [python=3.11]'")
    else:
        message = "this is not an environment file: it is not a mapping of keys such as 'dependencies'"
        findings.problem(root.line, root.column, message)
    findings.raise_if_any()
    return Mapping((), 0, 0, 0, 0)


def _without_credentials(
    text: str, includes: dict[str, str], digest: str, findings: Findings
) -> tuple[str, dict[str, str]]:
    """Return the texts without the credentials of their URLs (also in comments, but not in the values of variables).

    What is left is read again: it must hold no credentials and have the same name, or the document is refused.
    """
    if not findings.has_credentials and not any("@" in it or "/t/" in it for it in (text, *includes.values())):
        return text, includes
    document = read_document(text, Findings(findings.source))
    _, reader = _identify(document, Findings(findings.source), reader_of(includes))
    clean = redact(text, reader.variable_spans if reader else ())
    clean_includes = {path: redact(content) for path, content in includes.items()}
    if clean == text and clean_includes == includes and not findings.has_credentials:
        return text, includes
    if not _has_name(clean, digest, reader_of(clean_includes)):
        hint = "write the URL without them, and put them into netrc or rattler's auth file"
        findings.problem(0, 0, "a URL's credentials cannot be removed from the text of the document", hint)
        findings.raise_if_any()
    return clean, clean_includes


def _has_name(text: str, digest: str, read_include: ReadInclude | None) -> bool:
    """Tell whether a text holds no credentials and has this digest."""
    findings = Findings("")
    try:
        canonical, _ = _identify(read_document(text, findings), findings, read_include)
        findings.raise_if_any()
    except InvalidSpec:
        return False
    return not findings.has_credentials and digest_of(canonical) == digest
