"""Writes the model zoo: tiny models with random weights and what their attention is.

  python test/zoo/generate --out DIR                  # everything that exports, a few hundred models
  python test/zoo/generate --out test/zoo --kept      # the fixtures of the repository and expectations.json
  python test/zoo/generate --out DIR --only 'bert-*'
  python test/zoo/generate --out test/zoo --expectations   # only expectations.json, for the models in DIR

expectations.json has one model per line.

Deterministic for given versions of torch, transformers, onnx and onnxscript. Models that an exporter refuses
are listed on stderr with the reason; that is an error only for kept fixtures.
"""

import argparse
import fnmatch
import json
import os
import sys
from dataclasses import asdict, dataclass, replace

import onnx
import torch

import decoders
import modules
import operators
from architectures import ARCHITECTURES, SIZES
from exporting import DYNAMO_18, DYNAMO_23, LEGACY_11, LEGACY_14, LEGACY_17, export, strip_metadata
from kept import FIXED_SIZES, KEPT, NOT_RUNNABLE, NEED_ONE_BATCH


@dataclass(frozen=True)
class Fixture:
    """`produce` exports the model; the rest is known before."""

    name: str
    produce: object
    inputs: list
    sites: list


def transformers_fixtures():
    for architecture in ARCHITECTURES:
        for attention in architecture.attentions:
            for exporter in (LEGACY_11, LEGACY_14, LEGACY_17, DYNAMO_18, DYNAMO_23):
                for masked in architecture.variants:
                    suffix = "" if masked or len(architecture.variants) == 1 else "-nomask"
                    name = f"{architecture.name}-{attention}-{exporter.label}{suffix}"
                    yield transformers_fixture(name, architecture, attention, exporter, masked)
        for attention, exporter in (("eager", LEGACY_17), ("eager", DYNAMO_18), ("sdpa", DYNAMO_18), ("sdpa", DYNAMO_23)):
            if attention not in architecture.attentions:
                continue
            name = f"{architecture.name}-half-{attention}-{exporter.label}"
            yield transformers_fixture(name, architecture, attention, exporter, architecture.variants[0], torch.float16)


def transformers_fixture(name, architecture, attention, exporter, masked, dtype=torch.float32):
    inputs = architecture.inputs(masked)
    if dtype == torch.float16:
        inputs = [replace(spec, dtype="float16") if spec.dtype == "float32" else spec for spec in inputs]

    def produce():
        module = architecture.build(attention, masked).to(dtype)
        return export(module, inputs, architecture.outputs, exporter, SIZES, dtype)

    sites = [
        replace(
            site,
            dtype="float16" if dtype == torch.float16 else "float32",
            mask="all-true" if site.mask == "none" and exporter.kind in architecture.constant_mask else site.mask,
            empty_row=None if architecture.float_mask else empty_row(site, attention, exporter, dtype),
        )
        for site in architecture.sites(masked)
    ]
    return Fixture(name, produce, inputs, sites)


def empty_row(site, attention, exporter, dtype=torch.float32):
    """What the exported form gives for a row that sees no key.

    A finite lowest value added to every score leaves them equal: the mean of the values. The legacy sdpa form
    adds minus infinity and sets the NaN of such rows to zero; so does ONNX Runtime's Attention with a bool mask.
    The lowest float16 is not low enough where a runtime computes in float32, as ONNX Runtime does on the CPU.
    """
    if site.mask in ("none", "all-true", "causal"):
        return "never"
    if site.mask not in ("key-padding", "causal+padding"):
        return None
    if attention == "sdpa" and (exporter.kind == "legacy" or exporter == DYNAMO_23):
        return "zeros"
    return "mean" if dtype == torch.float32 else "unknown"


def module_fixtures():
    for case in [*modules.CASES, *modules.NEGATIVES]:
        for exporter in case.exporters:
            def produce(case=case, exporter=exporter):
                return export(case.build(), case.inputs, case.outputs or modules.OUTPUT, exporter, SIZES)

            yield Fixture(f"{case.name}-{exporter.label}", produce, list(case.inputs), list(case.sites))


def operator_fixtures():
    for built in operators.BUILT:
        yield Fixture(built.name, built.model, built.inputs, list(built.sites))


def decoder_fixtures():
    for name, (build, scope, heads, kv_heads) in decoders.DECODERS.items():
        for attention in ("eager", "sdpa"):
            for exporter in (LEGACY_17, DYNAMO_18, DYNAMO_23):
                rule = lambda sites: [replace(s, empty_row=empty_row(s, attention, exporter)) for s in sites]
                cached_inputs = [decoders.IDS, decoders.PADDING, *decoders.cache_inputs(kv_heads)]
                prompt_inputs = [decoders.IDS, decoders.PROMPT_PADDING]

                def cached(build=build, attention=attention, exporter=exporter, inputs=cached_inputs, kv_heads=kv_heads):
                    outputs = decoders.outputs(kv_heads, "total_sequence")
                    return export(decoders.Cached(build(attention)), inputs, outputs, exporter, SIZES)

                def prompt(build=build, attention=attention, exporter=exporter, inputs=prompt_inputs, kv_heads=kv_heads):
                    outputs = decoders.outputs(kv_heads, "sequence")
                    return export(decoders.Prompt(build(attention)), inputs, outputs, exporter, SIZES)

                cached_sites = rule(decoders.cached_site(scope, heads, kv_heads))
                prompt_sites = rule(decoders.prompt_site(scope, heads, kv_heads))
                label = f"{attention}-{exporter.label}"
                yield Fixture(f"{name}-cached-{label}", cached, cached_inputs, cached_sites)
                yield Fixture(f"{name}-prompt-{label}", prompt, prompt_inputs, prompt_sites)
                yield Fixture(
                    f"{name}-merged-{label}", lambda cached=cached, prompt=prompt: decoders.merge(prompt(), cached()),
                    [*cached_inputs, decoders.SWITCH], [*prompt_sites, *cached_sites],
                )


def converted_fixtures(exported):
    """Converters applied to exported models: float16 by ONNX Runtime's tool, fusions by onnxscript."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxscript import ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    for name in ("bert-sdpa-legacy17", "llama-sdpa-dynamo18"):
        base = exported[name]

        def half(base=base):
            return strip_metadata(convert_float_to_float16(base.produce(), keep_io_types=True))

        yield Fixture(f"{name}-float16", half, base.inputs, [in_float16(site) for site in base.sites])
    for model, rest in (("bert", "sdpa-dynamo18"), ("vit", "eager-dynamo18"), ("whisper-encoder", "sdpa-dynamo18"), ("llama", "sdpa-dynamo18")):
        base = exported[f"{model}-{rest}"]

        def fused(base=base):
            result = optimize_for_ort(ir.from_proto(base.produce()))
            return strip_metadata(ir.to_proto(result[0] if isinstance(result, tuple) else result))

        yield Fixture(f"{model}-fused-{rest}", fused, base.inputs, [replace(site, scope="", replaceable=None, empty_row=None) for site in base.sites])


def in_float16(site):
    return replace(site, dtype="float16", empty_row="unknown" if site.empty_row == "mean" else site.empty_row)


def fixtures():
    found = {}
    for source in (transformers_fixtures, module_fixtures, operator_fixtures, decoder_fixtures):
        found.update((fixture.name, fixture) for fixture in source())
    found.update((fixture.name, fixture) for fixture in list(converted_fixtures(found)))
    return found


def expectation(fixture):
    """The entry of expectations.json, with what limits ONNX Runtime in running the original."""
    entry = {
        "inputs": [asdict(spec) for spec in fixture.inputs],
        "sites": [{**asdict(site), "scale": None if site.scale is None else round(site.scale, 9)} for site in fixture.sites],
    }
    limit = NOT_RUNNABLE.get(fixture.name)
    if limit is not None:
        entry["not_runnable"] = limit
    elif fixture.name in NEED_ONE_BATCH:
        entry["most_batches"] = 1
    elif fixture.name in FIXED_SIZES:
        entry["sizes"] = {symbol: SIZES[symbol] for symbol in ("batch", "sequence", "encoder_sequence", "past_sequence")}
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="*")
    parser.add_argument("--kept", action="store_true", help="only the fixtures of the repository")
    parser.add_argument("--expectations", action="store_true", help="export nothing, describe what is there")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    found = fixtures()
    unknown = sorted(set(KEPT) - set(found))
    if unknown:
        sys.exit(f"kept.py names unknown fixtures: {', '.join(unknown)}")
    wanted = [f for n, f in found.items() if fnmatch.fnmatch(n, args.only) and (not args.kept or n in KEPT)]
    failed = False
    for fixture in wanted if not args.expectations else []:
        try:
            model = fixture.produce()
        except Exception as error:
            failed |= args.kept
            print(f"{fixture.name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            continue
        onnx.save(model, os.path.join(args.out, fixture.name + ".onnx"))
        print(fixture.name, model.ByteSize(), flush=True)
    entries = {n: expectation(f) for n, f in sorted(found.items()) if os.path.exists(os.path.join(args.out, n + ".onnx"))}
    with open(os.path.join(args.out, "expectations.json"), "w") as file:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        file.write(f"{{\n{lines}\n}}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
