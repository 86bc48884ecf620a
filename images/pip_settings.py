"""Collects this machine's pip settings for an image build."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

OPTIONS = (
    "find-links", "index-url", "extra-index-url", "no-index", "trusted-host", "proxy", "timeout",
    "default-timeout", "retries", "cert",
)  # fmt: skip
"""The options to copy. The others concern this machine's own environments."""
CERTIFICATES = "/run/secrets/ca"
"""Where the Dockerfiles mount the certificates that pip trusts."""


@dataclass(frozen=True)
class PipSettings:
    """The settings of this machine's pip.conf files and PIP_* variables that a build needs."""

    options: Mapping[str, str]
    """Options by name."""

    @classmethod
    def of_this_machine(cls) -> "PipSettings":
        """The settings that pip itself lists; none without pip."""
        command = [sys.executable, "-m", "pip", "config", "list"]
        listing = subprocess.run(command, capture_output=True, text=True, check=False)
        return cls.listed(listing.stdout)

    @classmethod
    def listed(cls, text: str) -> "PipSettings":
        """Read the output of `pip config list`. Variables, which pip lists last, win."""
        options = {}
        for line in text.splitlines():
            key, _, value = line.partition("=")
            section, _, option = key.rpartition(".")
            if section in ("global", "install", ":env:") and option in OPTIONS:
                options[option] = str(ast.literal_eval(value))
        return cls(options)

    @property
    def text(self) -> str:
        """A pip.conf for the build."""
        options = dict(self.options)
        if self.certificates:
            options["cert"] = CERTIFICATES
        lines = [f"{name} = {' '.join(value.split())}\n" for name, value in options.items()]
        return "".join(["[global]\n", *lines])

    @property
    def certificates(self) -> Path | None:
        """The file with the authorities that pip trusts, unless they are pip's own."""
        return Path(self.options["cert"]) if "cert" in self.options else None

    @property
    def folders(self) -> list[Path]:
        """Folders of this machine that pip searches."""
        indexes = (*self._paths("index-url"), *self._paths("extra-index-url"))
        # The pages of an index link to files next to its folder.
        folders = [*self._paths("find-links"), *(path.parent for path in indexes)]
        return list(dict.fromkeys(path for path in folders if path.is_dir()))

    def _paths(self, option: str) -> Iterator[Path]:
        for place in self.options.get(option, "").split():
            url = urlsplit(place)
            if url.scheme in ("", "file"):
                yield Path(unquote(url.path))
