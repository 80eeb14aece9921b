import sys

import pytest


@pytest.fixture(scope="module")
def script():
    import reproduce_paper

    return reproduce_paper


@pytest.fixture(scope="module")
def tables(script):
    return script.load_tables()


@pytest.fixture(scope="module")
def simulated(script, tables):
    return script.simulate(tables["simulation"])


def test_spearman_of_rsr(script, tables):
    result = script.table_4(tables)["rsr"]
    assert [round(abs(value), 3) for value in result.spearman.values()] == [0.855, 0.845, 0.888, 0.829, 0.815]
    assert round(result.average_spearman, 3) == 0.847


def test_pearson_of_rsr(script, tables):
    result = script.table_4(tables)["rsr"]
    assert [round(abs(value), 3) for value in result.pearson.values()] == [0.654, 0.879, 0.802, 0.820, 0.810]


@pytest.mark.parametrize(
    ("metric", "average"),
    [
        ("avg_surprisal", 0.509),
        ("avg_rank", 0.596),
        ("g_norm", 0.568),
        ("grace", 0.600),
        ("avg_token_length", 0.531),
        ("verified_accuracy", 0.315),
        ("llm_judged_quality", 0.508),
        ("rule_based_quality", 0.649),
        ("teacher_performance", 0.214),
    ],
)
def test_a_baseline_agrees_with_the_published_average_as_far_as_the_tables_allow(script, tables, metric, average):
    result = script.table_4(tables)[metric].average_spearman
    assert round(result, 3) == average
    assert result == pytest.approx(tables["metrics"][metric]["average"], abs=0.025)


def test_rsr_correlates_best_of_all_metrics(script, tables):
    results = script.table_4(tables)
    assert max(results, key=lambda name: results[name].average_spearman) == "rsr"


@pytest.mark.parametrize("variant", ["rsr_200_samples", "avg_rsr_token", "avg_rsr_filter_token", "no_clip"])
def test_a_variant_agrees_with_its_published_average(script, tables, variant):
    result = script.ablations(tables)[variant].average_spearman
    assert result == pytest.approx(tables["ablations"][variant]["average"], abs=0.015)


def test_every_list_has_one_value_per_teacher(tables):
    for entry in [tables["performance"], *tables["metrics"].values()]:
        lists = entry["values"].values() if isinstance(entry["values"], dict) else [entry["values"]]
        assert all(len(values) == len(tables["teachers"]) for values in lists)


def test_rounding_leaves_the_order_of_equal_values_open(script):
    assert script.spearman_range([1.0, 1.0, 2.0], 1, [1.0, 2.0, 3.0], 1) == pytest.approx((0.5, 1.0))


def test_rounding_does_not_matter_between_distant_values(script):
    assert script.spearman_range([1.0, 2.0, 3.0], 1, [3.0, 2.0, 1.0], 1) == pytest.approx((-1.0, -1.0))


@pytest.mark.parametrize("source", ["X_A", "X_B", "X_D"])
@pytest.mark.parametrize("column", ["probability", "surprisal", "rank", "rsr_token"])
def test_the_simulation_agrees_with_table_3(tables, simulated, source, column):
    published = tables["simulation"]["table"][source][column]
    assert getattr(simulated[source], column) == pytest.approx(published, abs=0.15)


def test_the_suitable_source_is_lowest_and_the_unseen_one_highest(simulated):
    ratios = {name: row.rsr_token for name, row in simulated.items()}
    assert min(ratios, key=ratios.get) == "X_B"
    assert max(ratios, key=ratios.get) == "X_C"


def test_the_script_prints_both_parts(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py"])
    script.main()
    printed = capsys.readouterr().out
    assert "0.888/0.918" in printed
    assert "Simulation (Table 3)" in printed
    assert "not in print" in printed
    assert 'Avg-Surp local        RSRScorer(student, metrics=["local_surprisal"])' in printed


def test_every_row_of_table_4_is_computed_or_not(script, tables):
    labels = {metric["label"] for metric in tables["metrics"].values()}
    assert labels <= script.COMPUTED_BY.keys() | script.NOT_COMPUTED.keys()
    assert not script.COMPUTED_BY.keys() & script.NOT_COMPUTED.keys()
