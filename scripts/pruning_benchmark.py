"""Selection in stages on real candidates: the share of tokens read against what is lost by not reading everything.

    python scripts/pruning_benchmark.py champ.parquet --problems 15   # scores CHAMP with SmolLM2 if there is no file
    python scripts/pruning_benchmark.py scored.parquet                # any scores with token columns and problem_id

One table for candidates as they are, drawn at random without replacement, and one for long trajectories: the token
scores of the solutions that one teacher wrote for several problems, joined. A last table lets whole selections find
their rule themselves: populations of problems, each a draw of candidates of one real problem.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from rsr_datasets.curation.pruning import LENGTHS, RULES, Sample, choose_rule

FloatArray = npt.NDArray[np.float64]


class Candidate(NamedTuple):
    """Running sums over the tokens of a trajectory, from 0 on."""

    teacher: str
    ranks: FloatArray
    surprisals: FloatArray

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return self.ranks.size - 1

    def ratio(self, tokens: int) -> float:
        """The ratio of the first tokens."""
        return float(self.ranks[tokens] / self.surprisals[tokens])


Problem = list[Candidate]


def score_champ(file: Path, problems: int) -> None:
    from champ import load_champ_candidates, smollm2_path

    from rsr_datasets import RSRScorer

    scorer = RSRScorer(str(smollm2_path()), dtype="float32", token_columns=True)
    load_champ_candidates(problems).map(scorer, batched=True, batch_size=100).to_parquet(str(file))


def read_problems(file: Path) -> list[Problem]:
    names = ["problem_id", "teacher", "rsr_token_ranks", "rsr_token_surprisals"]
    problems: dict[str, Problem] = {}
    for row in pq.read_table(file, columns=names).to_pylist():
        if row["rsr_token_ranks"]:
            ranks = np.minimum(row["rsr_token_ranks"], 100.0)
            sums = (np.append(0, np.cumsum(values)) for values in (ranks, row["rsr_token_surprisals"]))
            problems.setdefault(row["problem_id"], []).append(Candidate(row["teacher"], *sums))
    return list(problems.values())


def join(rng: np.random.Generator, problems: list[Problem], candidates: int) -> Problem:
    """Candidates that one teacher each wrote, for all of these problems one after the other."""
    teachers = sorted(set.intersection(*({each.teacher for each in problem} for problem in problems)))
    joined = []
    for i in range(candidates):
        teacher = teachers[i % len(teachers)]
        own = [[each for each in problem if each.teacher == teacher] for problem in problems]
        parts = [some[rng.integers(len(some))] for some in own]
        sums = (
            np.append(0, np.cumsum(np.concatenate([np.diff(getattr(part, name)) for part in parts])))
            for name in ("ranks", "surprisals")
        )
        joined.append(Candidate(teacher, *sums))
    return joined


def draw(rng: np.random.Generator, problem: Problem, candidates: int) -> Problem:
    return [problem[i] for i in rng.permutation(len(problem))[:candidates]]


def to_sample(problems: list[Problem]) -> Sample:
    rows = [each for problem in problems for each in problem]
    lengths = [np.mean([each.tokens for each in problem]) for problem in problems for _ in problem]
    limits = [[min(each.tokens, max(8, round(s * n))) for s in LENGTHS] for each, n in zip(rows, lengths, strict=True)]
    return Sample(
        problems=np.repeat(np.arange(len(problems)), [len(problem) for problem in problems]),
        rsr=np.array([each.ratio(each.tokens) for each in rows]),
        tokens=np.array([each.tokens for each in rows]),
        prefix_rsr=np.array([[each.ratio(n) for n in of] for each, of in zip(rows, limits, strict=True)]),
        prefix_tokens=np.array(limits),
        keep=1,
    )


def print_curve(title: str, problems: list[Problem]) -> None:
    """One line a rule, and beside it what pruning at random or by length loses with as many survivors."""
    sample, rng = to_sample(problems), np.random.default_rng(0)
    best, everything = sample.best, int(sample.tokens.sum())
    print(f"\n{title}; mean of all candidates {sample.rsr.mean() / best.mean() - 1:+.1%}")
    print(f"{'go on':>12}{'tokens':>9}{'regret':>9}{'same':>7}{'random':>9}{'shortest':>10}{'longest':>9}")
    columns = (rng.random(sample.rsr.size), sample.tokens.astype(float), -sample.tokens.astype(float))
    for rule in RULES:
        chosen, read = sample.simulate(rule, sample.prefix_rsr)
        blind = [sample.simulate((1.0, rule[1]), np.stack([values] * 2, axis=1))[0] for values in columns]
        losses = [found.sum() / best.sum() - 1 for found in (chosen, *blind)]
        shares = " ".join(f"{share:.0%}" for share in rule)
        print(
            f"{shares:>12}{read / everything:>9.1%}{losses[0]:>9.2%}{(chosen == best).mean():>7.0%}"
            f"{losses[1]:>9.2%}{losses[2]:>10.2%}{losses[3]:>9.2%}",
            flush=True,
        )


def print_promises(problems: list[Problem], candidates: int, count: int, calibration: int, trials: int) -> None:
    """Whole selections: their sample is read whole, and the rule is found in it."""
    rng = np.random.default_rng(0)
    kept, regrets, shares = [], [], []
    for _ in range(trials):
        population = [draw(rng, problems[rng.integers(len(problems))], candidates) for _ in range(count)]
        sample, rest = to_sample(population[:calibration]), to_sample(population[calibration:])
        rule = choose_rule(sample, count - calibration, 0.01, 0.9, rng)
        chosen, read = rest.simulate(rule, rest.prefix_rsr) if rule else (rest.best, rest.tokens.sum())
        regrets.append((chosen.sum() - rest.best.sum()) / (sample.best.sum() + rest.best.sum()))
        shares.append((read + sample.tokens.sum()) / (rest.tokens.sum() + sample.tokens.sum()))
        kept.append(regrets[-1] <= 0.01)
    print(
        f"{candidates:>12}{count:>10,}{calibration:>13}{np.mean(shares):>9.1%}{np.mean(regrets):>9.2%}"
        f"{np.mean(kept):>16.0%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="a Parquet file")
    parser.add_argument("--problems", type=int, default=15, help="of CHAMP, where there is no file")
    parser.add_argument("--candidates", type=int, nargs="+", default=[33, 72])
    parser.add_argument("--joined", type=int, nargs="*", default=[4], help="problems of a long trajectory")
    parser.add_argument("--draws", type=int, default=30, help="of each problem's candidates")
    parser.add_argument("--trials", type=int, default=20)
    arguments = parser.parse_args()
    if not arguments.scores.exists():
        score_champ(arguments.scores, arguments.problems)
    problems, rng = read_problems(arguments.scores), np.random.default_rng(0)
    tokens = [each.tokens for problem in problems for each in problem]
    print(
        f"{len(problems)} problems, {len(tokens):,} candidates, {sum(tokens):,} tokens, median {np.median(tokens):.0f}"
    )
    for count in arguments.candidates:
        all_at_once = count >= max(map(len, problems))
        drawn = problems if all_at_once else [draw(rng, p, count) for p in problems for _ in range(arguments.draws)]
        print_curve(f"{count if not all_at_once else 'all'} candidates a problem, {len(drawn)} draws", drawn)
    for parts in arguments.joined:
        chosen = [rng.choice(len(problems), min(parts, len(problems)), replace=False) for _ in range(arguments.draws)]
        drawn = [join(rng, [problems[i] for i in some], arguments.candidates[0]) for some in chosen]
        long = np.median([each.tokens for problem in drawn for each in problem])
        print_curve(f"{arguments.candidates[0]} long candidates, median {long:.0f} tokens, {len(drawn)} draws", drawn)
    print("\nregret=0.01, confidence=0.9: tokens with those of the sample, and how often the promise was kept")
    print(f"{'candidates':>12}{'problems':>10}{'calibration':>13}{'tokens':>9}{'regret':>9}{'promise kept':>16}")
    for candidates in arguments.candidates:
        for count, calibration in ((270, 50), (1000, 50)):
            print_promises(problems, candidates, count, calibration, arguments.trials)


if __name__ == "__main__":
    main()
