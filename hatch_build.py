"""Build hook: a wheel carries both bundles at liver_ct/bundles, and the settings that the package reads from the
repository at liver_ct/<same path>; an editable install reads those of the repository."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLES = ("liver_seg", "liver_cls")
PARTS = ("LICENSE", "configs", "docs", "models/model.pt", "scripts")  # not what training and evaluation leave behind
# The experiment, the knobs of training end to end, and the Model Zoo's style: what liver_ct.files.shipped is asked for.
SETTINGS = ("scripts/study.json", "scripts/end_to_end.json", "pyproject.toml", ".flake8")


class ShippedFilesHook(BuildHookInterface):
    """Adds the bundles' files and the settings to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; ``version`` is ``standard`` or ``editable``."""
        if version == "editable":
            return
        paths = [f"bundles/{bundle}/{part}" for bundle in BUNDLES for part in PARTS]
        paths.append("bundles/liver_cls/models/imagenet.pt")  # training begins from it
        for path in (*paths, *SETTINGS):
            build_data["force_include"][path] = f"liver_ct/{path}"
