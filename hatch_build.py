"""Build hook: a wheel carries both bundles at liver_ct/bundles; an editable install reads those of the repository."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLES = ("liver_seg", "liver_cls")
PARTS = ("LICENSE", "configs", "docs", "models/model.pt", "scripts")  # not what training and evaluation leave behind


class BundlesHook(BuildHookInterface):
    """Adds the bundles' files to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; ``version`` is ``standard`` or ``editable``."""
        if version == "editable":
            return
        for bundle in BUNDLES:
            for part in PARTS:
                build_data["force_include"][f"bundles/{bundle}/{part}"] = f"liver_ct/bundles/{bundle}/{part}"
