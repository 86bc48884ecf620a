"""Writes docs/models.md and docs/recipes.md.

`python -m dreambooth_trainer.codegen.generate [--check]`
"""

from pathlib import Path

from dreambooth_api.codegen import files
from dreambooth_api.codegen.files import Files
from dreambooth_trainer.codegen.models_page import models_page
from dreambooth_trainer.codegen.recipes_page import recipes_page
from dreambooth_trainer.models.registry import FAMILIES


def generated() -> Files:
    """Every generated file: its path in the repository, and its text."""
    families = FAMILIES.values()
    return {
        Path("docs", "models.md"): models_page(families),
        Path("docs", "recipes.md"): recipes_page(families),
    }


def main() -> None:
    """Write the files, or with --check compare them.

    Raises:
        SystemExit: A file differs, with the differences as message (exit code 1).
    """
    files.main("python -m dreambooth_trainer.codegen.generate", __doc__, generated)


if __name__ == "__main__":
    main()
