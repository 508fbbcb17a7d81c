"""The folder of studies, and nothing outside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore

from lib.names import check_name
from liver_ct.errors import StudyError


class Studies(LocalDatastore):
    """MONAI Label's folder datastore, which follows names and links wherever they lead; this one stays inside."""

    def get_image_uri(self, image_id: str) -> str:
        return self.inside(super().get_image_uri(image_id), image_id)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return self.inside(super().get_label_uri(label_id, label_tag), label_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        self.check_target(self._datastore.image_path(), image_id, image_filename)
        return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        check_name(label_tag, "tag")
        self.check_target(self._datastore.label_path(label_tag), image_id, label_filename)
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def remove_image(self, image_id: str) -> None:
        self.get_image_uri(image_id)
        super().remove_image(image_id)

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        pairs = super().datalist()
        for pair in pairs:
            for file in pair.values():
                self.inside(file, Path(file).name)
        return pairs if full_path else super().datalist(full_path)

    def check_target(self, folder: str, name: str, file: str) -> None:
        """Refuse to write a file under a name that leads out of the studies."""
        check_name(name, "image")
        self.inside(str(Path(folder, self._filename(name, self._to_id(Path(file).name)[1]))), name)

    def inside(self, path: str, name: str) -> str:
        """The path, if it lies among the studies once its links are followed.

        Raises:
            StudyError: it does not.
        """
        if path and not Path(path).resolve().is_relative_to(Path(self._datastore_path).resolve()):
            raise StudyError(f"{name}: a link out of the studies' folder. Put the file itself there.")
        return path
