"""The folder of a bundle that a model hub takes: its files, and a model card made of what it says of itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liver_ct.files import read_json, replace_folder, write_text
from liver_ct.zoo.bundle import METADATA, bundle_files
from liver_ct.zoo.metadata import pins

CARD, ATTRIBUTES = "README.md", ".gitattributes"
LARGE_FILES = "*.pt filter=lfs diff=lfs merge=lfs -text\n"  # as hubs keep weights
KINDS = {  # the hub's word for the task, and what inference needs beyond the CTs
    "liver_ct_segmentation": ("image-segmentation", ""),
    "liver_tumor_ct_classification": ("image-classification", " --prob_dir PROB_MASKS"),
}
TEMPLATE = """\
# {name}

{description}

Version {version}: {changes}

For research. Not a medical device, not for diagnosis.

## Use

```
pip install huggingface_hub {packages}
python -m monai.bundle download --name {folder} --source huggingface_hub --repo OWNER/{folder} --bundle_dir bundles
cd bundles/{folder}
python -m monai.bundle run --config_file configs/inference.json --dataset_dir CTS{masks} --output_dir OUT
```

(`OWNER`: under whose name this page is; full paths for the folders.) All commands and knobs:
[docs/README.md](docs/README.md). A bundle's config runs code: use only bundles you trust.

| | |
|---|---|
| task | {task} |
| input | {image_classes} |
| output | {pred_classes} |
| labels | {label_classes} |
| intended use | {intended_use} |

## Figures

| figure | value |
|---|---|
{figures}

On whom, with intervals and what else was tried: [Performance](docs/README.md#performance).

## Data

{data_source}

## Limits

{limits}

## Licence

The code is under the [Apache License 2.0](LICENSE), the weights under the terms of the data
([docs/data_license.txt](docs/data_license.txt)):

{terms}

## References

{references}
"""


def in_the_way(bundle: Path, hub: Path) -> list[str]:
    """A line where ``hub/<bundle's name>`` holds anything that `write_hub_folder` would not put there."""
    target, tops = hub / bundle.name, {CARD, ATTRIBUTES, *(name.partition("/")[0] for name in bundle_files(bundle))}
    if not target.exists() or (target.is_dir() and {entry.name for entry in target.iterdir()} <= tops):
        return []
    return [f"{target}: is in the way and not made by this program. Choose another --hub."]


def write_hub_folder(bundle: Path, hub: Path) -> str:
    """Write ``hub/<bundle's name>``, whole or not at all, in place of an earlier one.

    Args:
        bundle: the bundle's folder, under its zoo name.
        hub: gets the folder.

    Returns:
        A line: the folder's path and how many files it holds.

    Raises:
        OSError: it cannot be written.
    """
    target, part, files = hub / bundle.name, hub / f".part-{bundle.name}", bundle_files(bundle)
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name, path in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
        write_text(part / CARD, model_card(bundle))
        write_text(part / ATTRIBUTES, LARGE_FILES)
        replace_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"{target}    {len(files) + 2} files"


def model_card(bundle: Path) -> str:
    """The model card of a bundle, which lies under its zoo name: YAML for the hub, and a page for people.

    Everything in it is from configs/metadata.json, docs/data_license.txt and the limitations in docs/README.md.
    """
    metadata: dict[str, Any] = read_json(bundle / METADATA)
    figures: dict[str, float] = metadata.get("eval_metrics", {})
    page = TEMPLATE.format_map(
        {
            **metadata,
            "folder": bundle.name,
            "masks": KINDS[bundle.name][1],
            "changes": metadata["changelog"][metadata["version"]],
            "packages": " ".join(f"{name}=={version}" for name, version in pins(metadata).items()),
            "figures": "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in figures.items()),
            "limits": _section((bundle / "docs" / "README.md").read_text(encoding="utf-8"), "Limitations"),
            "terms": _quoted((bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")),
            "references": "\n".join(f"- {reference}" for reference in metadata.get("references", ())),
        }
    )
    return f"---\n{_front(bundle.name, metadata)}---\n{page}"


def _front(name: str, metadata: Mapping[str, Any]) -> str:
    """What a hub reads: YAML, each value as JSON, which YAML contains."""
    values = {
        "license": "other",
        "license_name": "apache-2.0-code-non-commercial-weights",
        "license_link": "docs/data_license.txt",
        "library_name": "monai",
        "pipeline_tag": KINDS[name][0],
        "tags": ["monai", "medical", "CT", "liver"],
        "version": metadata["version"],
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _section(text: str, heading: str) -> str:
    """What stands under a heading of a page."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def _quoted(text: str) -> str:
    """A text as it is, in a block."""
    return f"```\n{text.strip()}\n```"
