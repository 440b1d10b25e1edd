"""Memory and time of a training step of the generator, for faces of each size and networks of each width."""

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

SIZES = ("96", "192", "256", "288x192", "384", "512", "1280x640")
RUN = "import sys\nfrom benchmarks.training import measure\nmeasure(*sys.argv[1:])\n"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="HxW", help=f"(default: {' '.join(SIZES)})")
    parser.add_argument("--widths", nargs="+", default=("0.25", "0.5", "1.0"), help="(default: 0.25 0.5 1.0)")
    parser.add_argument("--batch_size", type=int, default=1, help="samples of 5 frames a step (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--most_gib", type=float, default=12, help="of memory on a CPU (default: %(default)s)")


def main(args: Namespace, folder: Path) -> None:
    print("seconds a step (of processor time on a CPU) and memory above that of the program itself, in GiB:")
    print(f"{'size':>9} {'width':>5} {'plain':>16} {'checkpointing':>16}")
    for width in args.widths:
        for size in args.sizes:
            found = []
            for checkpointing in (False, True):
                words = [size, width, args.batch_size, args.device, args.precision, args.most_gib]
                words += [args.repeats, int(checkpointing)]
                command = [sys.executable, "-c", RUN, *map(str, words)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                found.append(_shown(done))
            print(f"{size:>9} {width:>5} {found[0]:>16} {found[1]:>16}", flush=True)


def _shown(done: subprocess.CompletedProcess) -> str:
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return "does not fit" if any("memory" in line.lower() for line in last) else f"failed: {last}"
    result = json.loads(done.stdout.splitlines()[-1])
    return f"{result['seconds']:.1f} s {result['gib']:.2f}"


def measure(
    size: str, width: str, batch: str, device: str, precision: str, most_gib: str, repeats: str, checkpointing: str
) -> None:
    """In a process of its own: one step that does not count, then `repeats` of them; prints JSON."""
    import resource
    import time
    from statistics import median

    import torch

    from hparams import hparams
    from models import SyncNet_color
    from training.memory import peak_bytes, split
    from training.stages import GeneratorStage

    torch.manual_seed(0)
    overrides = f"img_size={size},generator_width={width},syncnet_wt=0.03,activation_checkpointing={checkpointing}"
    hp = hparams.override(overrides)
    stage = GeneratorStage(hp, SyncNet_color())
    networks = (stage.networks[""], stage.expert)
    for network in networks:
        network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(networks[0].parameters(), 1e-4)
    faces, mels = (int(batch), 3, 5, *hp.face_size), (int(batch), 1, 80, 16)
    samples = {name: torch.rand(faces, device=device) for name in ("target", "reference")}
    samples |= {name: torch.rand(mels, device=device) for name in ("mel", "reference_mel")}
    samples |= {
        name: torch.rand(mels[0], 5, *mels[1:], device=device) for name in ("indiv_mels", "reference_indiv_mels")
    }
    on_cpu = device == "cpu"
    if on_cpu:
        most = int(float(most_gib) * 2**30) + _virtual_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    else:
        torch.cuda.reset_peak_memory_stats()
    seconds = []

    def step() -> None:
        begun = time.process_time() if on_cpu else time.perf_counter()
        stage.train_mode()
        optimizer.zero_grad()
        ((_, part),) = split(stage.prepare(samples), 1)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            stage.step(part, lambda _, loss: loss.backward())
        optimizer.step()
        if not on_cpu:
            torch.cuda.synchronize()
        seconds.append((time.process_time() if on_cpu else time.perf_counter()) - begun)

    peak = peak_bytes(lambda: [step() for _ in range(1 + int(repeats))])
    if not on_cpu:
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": median(seconds[1:]), "gib": peak / 2**30}))


def _virtual_bytes() -> int:
    """What this process has mapped already."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096
