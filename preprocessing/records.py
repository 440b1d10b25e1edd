"""What is known of each source, in a file each: a source with a record is done; files appear whole or not at all."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from whole import write_text_whole

RECORDS = Path(".raw/records")


@dataclass(frozen=True)
class Record:
    """One source video.

    Attributes:
        name: its folder in the tree.
        source: its path under `--raw`.
        size: bytes, by which a file that was replaced stands out.
        options: those that its clips depend on.
        seconds: how long it is.
        rows: one for each clip and each stretch of a face that was dropped, see `report.COLUMNS`.
        failure: why nothing could be made of it; such a source is tried again.
    """

    name: str
    source: str
    size: int
    options: dict[str, str]
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)
    failure: str = ""

    @property
    def kept(self) -> list[dict]:
        return [row for row in self.rows if row["result"] == "kept"]


def record_path(root: Path, name: str) -> Path:
    return root / RECORDS / f"{name}.json"


def write_record(root: Path, record: Record) -> None:
    path = record_path(root, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps(asdict(record), indent=1))


def read_record(root: Path, name: str) -> Record | None:
    """None where there is none that can be read."""
    try:
        return Record(**json.loads(record_path(root, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
