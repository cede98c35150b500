"""
Gathers the results that training wrote, one file per family, rounded: results/{language,regression,forecasting}.json.

    python collect.py trained/ results/
"""

import json
import pathlib
import sys

#: Points that a training curve is averaged to.
POINTS = 18
UNCOUNTED = ("ms_per_step", "curve", "losses", "peakedness", "seed", "kind")


def rounded(value, digits=5):
    """Floats to so many significant digits, inside lists and objects too."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    return {key: rounded(each, digits) for key, each in value.items()} if isinstance(value, dict) else value


def averaged(curve):
    """The last step and the mean of each whole run of points."""
    length = -(-len(curve) // POINTS)
    runs = [curve[start : start + length] for start in range(0, len(curve) - length + 1, length)]
    return [[run[-1][0], sum(loss for _, loss in run) / len(run)] for run in runs]


def entry(result):
    kept = {key: value for key, value in result.items() if key not in UNCOUNTED}
    for layer in result.get("peakedness", []):
        for key, value in layer.items():
            kept.setdefault(key, []).append(value)
    if "peakedness" in result:
        kept["curve"] = averaged(result["curve"])
    elif "horizon" not in result:
        kept["curve"] = rounded(result["curve"], 3)
    return {"attention": result["kind"], **rounded(kept)}


def main():
    trained, results = (pathlib.Path(path) for path in sys.argv[1:])
    results.mkdir(exist_ok=True)
    for family, start in (("language", "byte-lm"), ("regression", "regression"), ("forecasting", "time-series")):
        entries = [entry(json.loads(path.read_text())) for path in sorted(trained.glob(f"{start}-*.json"))]
        lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in entries)
        (results / f"{family}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
