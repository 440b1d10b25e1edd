"""What an evaluation is asked to do: the one truth of the command line of `evaluate.py`."""

from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from face_detection.api import DETECTORS
from lipsync.options import DETECT, option


@dataclass(frozen=True)
class EvaluationOptions:
    """Every option of `evaluate.py`: a field is the flag of its name. Raises InputError for what makes no sense.

    One of `results`, `pairs` and `filelist` says what is evaluated.
    """

    results: Path | None = option(None, "folder of result videos")
    real: Path | None = option(
        None, "folder of real videos: pairs where names match those in --results, else a scale beside them"
    )
    pairs: Path | None = option(None, "list of pairs: a generated and a real video a line, as CSV or with spaces")
    filelist: Path | None = option(
        None, "list in the published format, '<audio clip> <video clip>' a line: these are generated first"
    )
    data_root: Path = option(Path(), "where the ids or paths of a list lie")
    checkpoint_path: Path | None = option(None, "generator of --filelist (default: the shipped one)")
    outdir: Path = option(Path("results/evaluation"), "report.html, report.json, clips.csv and summary.csv go here")
    expert: Path | None = option(None, "expert of the sync figures (default: the shipped one)")
    syncnet: Path | None = option(
        None,
        "folder of syncnet_v2.model and sfd_face.pth: sync figures by published SyncNet v2, package syncnet-python",
    )
    inception: Path | None = option(None, "Inception v3 weights of torchvision, for FID (default: its cache, if there)")
    pads: tuple[int, int, int, int] = option(
        (0, 10, 0, 0), "pixels by which detected boxes grow, as at inference", metavar=tuple("TBLR")
    )
    box: tuple[int, int, int, int] = option(
        DETECT, "constant face box of every video instead of detection; -1 -1 -1 -1 = detect", metavar=tuple("TBLR")
    )
    face_detector: str = option("auto", "auto takes sfd when its weights are there, else centerface", choices=DETECTORS)
    det_every: int = option(5, "the detector looks at every N-th frame, and at more where faces move; 1 = at each")
    device: str = option("auto", "where the networks run: auto, cpu, cuda, cuda:1, ...")
    strips: int = option(24, "clips of which the page shows faces")
    seed: int = option(0, "of the choice of wrong speech and of the bootstrap")

    def __post_init__(self) -> None:
        given = [name for name in ("results", "pairs", "filelist") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError("give one of --results FOLDER, --pairs LIST and --filelist LIST: what to evaluate")
        if self.real is not None and self.results is None:
            raise InputError("--real goes with --results: a list names the real videos itself")
        if self.checkpoint_path is not None and self.filelist is None:
            raise InputError("--checkpoint_path goes with --filelist: nothing else is generated")
        if self.expert is not None and self.syncnet is not None:
            raise InputError("--expert and --syncnet both judge sync: give one of them")
        if self.det_every < 1 or self.strips < 0 or self.seed < 0:
            raise InputError("--det_every takes a number from 1, --strips and --seed from 0")
