"""Two stores -> one order that begins with much of one and ends with much of the other, decided while it runs.

    python examples/curriculum.py --easy store-a --hard store-b

The weights in force at each position are on record: a run that stopped resumes under the same past, and
another past is refused.
"""

from __future__ import annotations

import argparse

import numpy as np

import headrace as hr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--easy", required=True)
    parser.add_argument("--hard", required=True)
    parser.add_argument("--steps", type=int, default=100, help="batches of each part")
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    easy, hard = hr.Store.open(options.easy), hr.Store.open(options.hard)
    shares = [{easy: 0.9, hard: 0.1}, {easy: 0.5, hard: 0.5}, {easy: 0.1, hard: 0.9}]

    mixture, state = hr.mix(shares[0]), None
    for part, share in enumerate(shares):
        if part:
            mixture = mixture.then(part * options.steps * options.batch_size, share)
        with hr.Loader(mixture, seq_len=options.seq_len, batch_size=options.batch_size, seed=7) as loader:
            if state is not None:
                loader.load_state_dict(state)
            taken = np.concatenate([next(loader).sources for _ in range(options.steps)])
            state = loader.state_dict()
        print(f"rows to {state['position']:,}: {np.mean(taken == 1):.1%} from {options.hard}")

    # The whole, read again in one go: the same order.
    with hr.Loader(mixture, seq_len=options.seq_len, batch_size=options.batch_size, seed=7) as whole:
        whole.seek((len(shares) - 1) * options.steps * options.batch_size)
        assert (np.concatenate([next(whole).sources for _ in range(options.steps)]) == taken).all()


if __name__ == "__main__":
    main()
