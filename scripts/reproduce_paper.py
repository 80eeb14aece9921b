"""Recomputes published results of arXiv:2601.14249 with this package, beside the numbers in print.

    python scripts/reproduce_paper.py

(a) The correlation of RSR and of the published baselines with post-training performance (Table 4), from the paper's
per-teacher tables. Those are rounded: where two teachers lie closer together than the rounding, their order is lost,
and a Spearman coefficient with it. So each coefficient that misses the published digits is tested: could values that
round to the printed ones give it?

(b) The simulation of Table 3, with ranks and surprisals turned into scores by ``rsr_datasets.metrics``.

(c) Which rows of Table 4 the package computes on real data, and how.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from rsr_datasets import Correlation, correlation
from rsr_datasets.metrics import available_metrics, trajectory_scores

TABLES = Path(__file__).with_name("paper_tables.json")
ROUNDING_DRAWS = 2_000
# The student's vocabulary in the order of the major source. The other two sources prefer tokens further down.
MINOR_SHIFT = 15
UNSEEN_SHIFT = 6

# Computes a row of Table 4 on data of one's own: the name of a metric, or a call.
COMPUTED_BY = {
    "RSR": "rsr",
    "Avg-Surprisal": "avg_surprisal",
    "Avg-Surp local": "local_surprisal",
    "Avg-Rank": "avg_rank_unclipped",
    "Avg-Token Length": "the column rsr_num_tokens",
    "Verified Accuracy": "add_verified(dataset, answer_column)",
    "Rule-based Quality": "add_rule_based_quality(dataset)",
}
NOT_COMPUTED = {
    "LLM-judged Quality": "another model judges",
    "Teacher Params": "known of the teacher, not of its trajectories",
    "Teacher Performance": "known of the teacher, not of its trajectories",
    "Influence Score": "needs gradients",
    "G-Norm": "needs gradients",
    "GRACE": "needs gradients",
}

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Simulated:
    """One row of Table 3: means over sampled tokens.

    Attributes:
        probability: Probability under the student.
        surprisal: Surprisal in nats.
        rank: Rank, 1 for the student's favourite.
        rsr_token: Ratio of rank and surprisal of each token.
    """

    probability: float
    surprisal: float
    rank: float
    rsr_token: float


def table_4(tables: Mapping[str, Any]) -> dict[str, Correlation]:
    """Correlations of every metric in Table 4 with performance."""
    performance = tables["performance"]["values"]
    return {name: correlation(metric["values"], performance) for name, metric in tables["metrics"].items()}


def ablations(tables: Mapping[str, Any]) -> dict[str, Correlation]:
    """Correlations of the variants of RSR that the tables allow."""
    performance = tables["performance"]["values"]
    values = {name: entry["values"] for name, entry in tables["ablations"].items() if "values" in entry}
    rank, surprisal = (tables["metrics"][name]["values"] for name in ("avg_rank", "avg_surprisal"))
    values["no_clip"] = {s: (np.array(rank[s]) / np.array(surprisal[s])).tolist() for s in performance}
    return {name: correlation(values[name], performance) for name in tables["ablations"]}


def spearman_range(
    metric: Sequence[float], metric_decimals: int, performance: Sequence[float], performance_decimals: int
) -> tuple[float, float]:
    """Least and greatest Spearman coefficient found among values that round to the given ones."""
    rng = np.random.default_rng(0)

    def ranks(values: Sequence[float], decimals: int) -> FloatArray:
        half = 0.5 * 10.0**-decimals if decimals else 0.0
        noise = rng.uniform(-half, half, (ROUNDING_DRAWS, len(values)))
        return stats.rankdata(np.asarray(values) + noise, axis=1) - (len(values) + 1) / 2

    x, y = ranks(metric, metric_decimals), ranks(performance, performance_decimals)
    coefficients = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return float(coefficients.min()), float(coefficients.max())


def simulate(settings: Mapping[str, Any], seed: int = 0) -> dict[str, Simulated]:
    """Runs the simulation of Table 3.

    A student is the token frequencies of a corpus with a major and a minor source, Zipf distributions of one shape
    over one vocabulary in different orders. X_A and X_B are sampled from the major and the minor source, X_C from a
    source that the student has never seen, and X_D from both known sources in the proportion of the corpus.
    """
    rng = np.random.default_rng(seed)
    vocabulary = settings["vocabulary"]
    zipf = np.arange(1, vocabulary + 1) ** -float(settings["zipf_exponent"])
    major = zipf / zipf.sum()
    minor, unseen = np.roll(major, MINOR_SHIFT), np.roll(major, UNSEEN_SHIFT)
    counts = [settings["major_tokens"], settings["minor_tokens"]]
    frequency = rng.multinomial(counts[0], major) + rng.multinomial(counts[1], minor)
    student = frequency / frequency.sum()
    ranks = 1 + (student[None, :] > student[:, None]).sum(axis=1)
    mixture = np.average([major, minor], axis=0, weights=counts)
    result = {}
    for name, source in {"X_A": major, "X_B": minor, "X_C": unseen, "X_D": mixture}.items():
        tokens = rng.choice(vocabulary, settings["sampled_tokens"], p=source)
        surprisals = -np.log(student[tokens])
        scores = trajectory_scores(ranks[tokens], surprisals, np.arange(tokens.size + 1))
        means = (student[tokens], scores.avg_surprisal, scores.avg_rank, scores.rsr)
        result[name] = Simulated(*(float(values.mean()) for values in means))
    return result


def load_tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(TABLES.read_text(encoding="utf-8"))
    return tables


def print_table_4(tables: Mapping[str, Any]) -> None:
    performance = tables["performance"]
    students = list(performance["values"])
    print("Spearman correlation with post-training performance (Table 4): recomputed / published, absolute values")
    print(f"{'':<22}{''.join(f'{student:>17}' for student in students)}{'average':>17}")
    unexplained: dict[str, list[str]] = {}
    for name, result in table_4(tables).items():
        metric = tables["metrics"][name]
        digits = 3 if name == "rsr" else 2
        cells = []
        for student in students:
            recomputed, published = abs(result.spearman[student]), metric["spearman"][student]
            mark = " "
            if round(recomputed, digits) != published:
                values = metric["values"] if isinstance(metric["values"], list) else metric["values"][student]
                low, high = spearman_range(
                    values, metric["decimals"], performance["values"][student], performance["decimals"]
                )
                slack = 0.5 * 10.0**-digits
                possible = low - slack <= published <= high + slack or low - slack <= -published <= high + slack
                mark = "~" if possible else "!"
                if not possible:
                    unexplained.setdefault(student, []).append(metric["label"])
            cells.append(f"{recomputed:.3f}/{published:.{digits}f}{mark}")
        cells.append(f"{result.average_spearman:.3f}/{metric['average']:.{digits}f} ")
        print(f"{metric['label']:<22}{''.join(f'{cell:>17}' for cell in cells)}")
    print("The average is the absolute value of the mean of the signed coefficients.")
    print("~ The published digits need values from before rounding: the printed ones hide the order of some teachers.")
    if unexplained:
        print("! No values that round to the printed ones were found to give the published digits, so that these")
        print("  cannot be recomputed from the tables, whatever was rounded away:")
        for student, labels in unexplained.items():
            print(f"  {student}: {', '.join(labels)}")

    pearson, published_pearson = table_4(tables)["rsr"], tables["rsr_pearson"]
    cells = [f"{abs(pearson.pearson[s]):.3f}/{published_pearson['values'][s]:.3f} " for s in students]
    cells.append(f"{pearson.average_pearson:.3f}/{published_pearson['average']:.3f} ")
    print(f"\n{'RSR, Pearson':<22}{''.join(f'{cell:>17}' for cell in cells)}")

    print("The last digit of a Pearson coefficient moves with the rounding of the tables.")

    print("\nVariants of RSR, average Spearman: recomputed / published")
    for name, result in ablations(tables).items():
        entry = tables["ablations"][name]
        print(f"{entry['label']:<28}{result.average_spearman:.3f}/{entry['average']:.3f}")
    print(
        "Other clips, powers and entropies need the token-level values, which are not in print; on data of one's own"
    )
    print('RSRScorer(student, metrics=["rank_pow", "surprisal_pow", "rank_entropy_ratio", ...]) computes them.')


def print_table_3(tables: Mapping[str, Any]) -> None:
    print("\nSimulation (Table 3): recomputed / published")
    columns = ("probability", "surprisal", "rank", "rsr_token")
    print(f"{'':<6}{''.join(f'{column:>16}' for column in columns)}")
    for name, row in simulate(tables["simulation"]).items():
        published = tables["simulation"]["table"][name]
        cells = [f"{getattr(row, column):.2f}/{published[column]:.2f}" for column in columns]
        print(f"{name:<6}{''.join(f'{cell:>16}' for cell in cells)}")
    print(
        "X_C depends on the order of the vocabulary in the unseen source, which is not in print: only its place, the\n"
        "highest ratio, can be compared. The other orders move ranks by about 0.1."
    )


def print_computable() -> None:
    metrics = available_metrics()
    print("\nRows of Table 4 that this package computes on trajectories of one's own")
    for label, how in COMPUTED_BY.items():
        call = f'RSRScorer(student, metrics=["{how}"]): {metrics[how].formula}' if how in metrics else how
        print(f"{label:<22}{call}")
    print("Rows that it does not compute")
    for label, why in NOT_COMPUTED.items():
        print(f"{label:<22}{why}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tables = load_tables()
    print(f"Published numbers: {tables['source']}\n")
    print_table_4(tables)
    print_table_3(tables)
    print_computable()


if __name__ == "__main__":
    main()
