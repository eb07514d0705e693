"""Read gRefCOCO: expressions that mean one object, several, or none.

    grefcoco/grefs(unc).json   a list of refs; older copies have grefs(unc).p
    grefcoco/instances.json    RefCOCO's: all annotated objects of the images

A ref is as in `refseg.data.refer`, but ann_id and category_id are lists:

    {"ref_id": 12, "ann_id": [1719310, 1719311], "image_id": 581857, "category_id": [1, 1],
     "split": "train", "sentences": [{"sent_id": 30, "raw": "...", "sent": "...", ...}], ...}

ann_id [-1] says that the expression means nothing in its image. file_name is not read: it names
no file and has an extra piece in some refs. Among several targets the official code leaves COCO's
crowd regions out, and so does this reader, unless the crowd is the only target; those left out are
listed in the ref's extra["crowds"].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.records import Records
from refseg.data.refer import (
    INSTANCES,
    NO_TARGET_ID,
    add_instances,
    choose_split_by,
    load_json,
    load_refs,
)


def sources(folder: Path, split_by: str | None = None) -> list[Path]:
    """The two files that `read` reads."""
    return [_choose(folder, split_by)[1], folder / INSTANCES]


def read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records:
    """The normal form of a gRefCOCO folder; split_by is "unc" in the published files.

    strict: raise DataError at the first contradiction; otherwise leave the row out and count it.
    """
    split_by, path = _choose(folder, split_by)
    instances = load_json(folder / INSTANCES, ("images", "annotations", "categories"))
    refs = load_refs(path)
    build = RecordsBuilder(
        "grefcoco", split_by, source=str(folder / INSTANCES), strict=strict, objects_file=INSTANCES
    )
    add_instances(build, instances)
    crowds = {
        e.get("id") for e in instances["annotations"] if isinstance(e, dict) and e.get("iscrowd")
    }
    build.source = str(path)
    for number, ref in enumerate(refs):
        with build.entry("ref", (number, ref)):
            _add_ref(build, ref, crowds)
    return build.finish()


def _add_ref(build: RecordsBuilder, ref: Mapping[str, Any], crowds: Collection[Any]) -> None:
    ref_id, stated = ref["ref_id"], ref["ann_id"]
    ann_ids = list(stated) if isinstance(stated, list) else [stated]
    if not ann_ids or (NO_TARGET_ID in ann_ids and len(ann_ids) > 1):
        build.problem(
            "ref of unclear targets",
            f"ref_id {ref_id}: ann_id {stated!r:.80}",
            "no target is written as [-1] alone",
        )
        return
    targets = [ann_id for ann_id in dict.fromkeys(ann_ids) if ann_id != NO_TARGET_ID]
    objects = [ann_id for ann_id in targets if ann_id not in crowds] or targets
    left_out = [ann_id for ann_id in targets if ann_id not in objects]
    sentences = [
        Sentence(s["sent_id"], s.get("raw") or "", s.get("sent") or "") for s in ref["sentences"]
    ]
    extra = {"crowds": left_out} if left_out else {}
    build.ref(ref_id, ref["image_id"], ref["split"], objects, sentences, extra=extra)


def _choose(folder: Path, split_by: str | None) -> tuple[str, Path]:
    """The json, the newer form, before the pickle."""
    return choose_split_by(folder, split_by, "grefs", ".json")
