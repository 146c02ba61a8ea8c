"""Holds a loaded configuration with the place of each of its keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import TYPE_CHECKING

from tcpdconf.config import codes, positions, problems
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.load import merge
from tcpdconf.config.load.source import SourceFile, Spot
from tcpdconf.config.model import presets
from tcpdconf.config.model.service import Config

if TYPE_CHECKING:
    from tcpdconf.config.load import validation_errors


@dataclass(frozen=True)
class Loaded:
    """Holds a configuration, the files that it came from (in order), and its warnings."""

    directory: str
    config: Config
    files: tuple[str, ...]
    # of the files, taken before reading
    signatures: Mapping[str, Signature] = field(default_factory=dict, repr=False)
    warnings: tuple[problems.Problem, ...] = ()
    written: merge.Merged = field(default_factory=lambda: merge.Merged([]), repr=False)

    def problem(
        self,
        key: positions.Key,
        text: str,
        code: codes.Code,
        severity: problems.Severity = "error",
        *,
        hint: str | None = None,
        meant: str | None = None,
        spot: Spot = "value",
    ) -> problems.Problem:
        """Return a problem of a key of the effective configuration, at the place where it is written.

        `meant` is TOML that does what the hint says, in place of the value or the key (`spot`).

        A key that is not written has its problem at the header of the nearest table around it.
        """
        found = self.written.locate(key)
        shown = problems.dotted(key)
        if found is None:
            return problems.Problem(self.directory, 0, 0, shown, text, code, severity, hint)
        layer, exact = found
        span = layer.source.span(layer.key, spot if exact else "value")
        edits = layer.source.replacement(layer.key, spot, meant) if exact and meant is not None else ()
        return layer.source.problem(span, shown, text, code, severity=severity, hint=hint, edits=edits)

    def found(self, finding: "validation_errors.Finding") -> problems.Problem:
        """Return the problem for a finding about the effective configuration."""
        written = self.written.locate(finding.key)
        if written is not None and written[1]:
            finding = advised(finding, written[0].source, written[0].key)
        found = self.problem(
            finding.key, finding.text, finding.code, hint=finding.hint, meant=finding.meant, spot=finding.spot
        )
        return replaced(found, edits=finding.edits) if finding.edits else found

    def origin(self, key: positions.Key) -> tuple[str, int] | None:
        """Return file and line of a key of the effective configuration, or None for a built-in default."""
        found = self.written.locate(key)
        if found is None or not found[1]:
            return None
        span = found[0].source.span(found[0].key, "key")
        return None if span is None else (found[0].source.path, span.line)

    def comment(self, key: positions.Key) -> str:
        """Return the origin of a key for people: `conf.d/10-smtp.toml:12`, `preset psbl`, or `default`."""
        origin = self.origin(key)
        if origin is None:
            preset = self._preset(key)
            return "default" if preset is None else f"preset {preset}"
        return f"{origin[0]}:{origin[1]}"

    def _preset(self, key: positions.Key) -> str | None:
        """Return the preset that set a key of a DNS list which was not written, or None."""
        kind = "lists" if key[0] == "dns_chains" else "dns_lists"
        if len(key) < 5 or key[2] != kind:
            return None
        table = self.written.locate(key[:4])
        name = (
            table[0].value.get("preset") if table is not None and isinstance(table[0].value, dict) else None
        )
        return name if name is not None and key[4] in presets.known()[name]["settings"] else None


def advised(
    found: "validation_errors.Finding", file: SourceFile, key: positions.Key
) -> "validation_errors.Finding":
    """Return a finding with advice that needs the text of its file."""
    from tcpdconf.config.load import advice  # noqa: PLC0415 (needed for problems only)

    return advice.advised(found, file, key)
