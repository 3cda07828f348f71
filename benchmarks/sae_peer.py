"""Training steps of SAELens for benchmarks/sae.py, which runs this file with the interpreter of a venv of its own.

    python benchmarks/sae_peer.py topk|topk-sparse|l1 DATA.npy D_IN D_SAE K BATCH

One step per line of standard input; each is answered with its CPU seconds and the extra peak memory so far.
"""

import ctypes
import sys
import time
import warnings
from pathlib import Path


def resident(field: str) -> float:
    """Return MiB of this process's VmRSS (now) or VmHWM (at most)."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Give back what is free, and let VmHWM start again at the present."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Answer lines with steps."""
    warnings.filterwarnings("ignore")
    import numpy as np
    import sae_lens
    import torch
    from sae_lens import (
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.set_num_threads(1)

    def trainer(d_in: int, d_sae: int, k: int, batch: int) -> SAETrainer:
        if kind == "l1":
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=d_in, d_sae=d_sae, l1_coefficient=0.01))
        else:
            config = TopKTrainingSAEConfig(
                d_in=d_in, d_sae=d_sae, k=k, use_sparse_activations=kind == "topk-sparse",
                rescale_acts_by_decoder_norm=False,  # not its default, but faster, and sparse ones need it
            )  # fmt: skip
            sae = TopKTrainingSAE(config)
        settings = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=batch, lr=1e-5, lr_end=1e-6
        )
        return SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))

    kind, path = sys.argv[1:3]
    d_in, d_sae, k, batch = map(int, sys.argv[3:])
    data = torch.from_numpy(np.load(path))
    trainer(8, 64, 4, 16).step(torch.randn(16, 8))  # whatever is loaded late is loaded now
    forget_peak()
    before = resident("VmRSS")
    one = trainer(d_in, d_sae, k, batch)
    print(f"SAELens {sae_lens.__version__} on torch {torch.__version__}", flush=True)
    start = 0
    for _ in sys.stdin:
        began = time.process_time()
        one.step(data[start : start + batch])
        one.n_training_steps += 1
        start = (start + batch) % len(data)
        print(time.process_time() - began, resident("VmHWM") - before, flush=True)


if __name__ == "__main__":
    main()
