import { dirname } from 'node:path';
import { InputError } from '../../rewriter/errors.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { FileSource } from '../../rewriter/onnx/byte-source-file.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { externalLocations } from '../../rewriter/onnx/external-data.js';
import { type ModelFile, openModelFile } from '../../rewriter/onnx/model-file.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import {
  type Budgets,
  type LengthValidation,
  type OutputValidation,
  type RuntimeDescription,
  type Validation,
  within,
} from '../../rewriter/validation.js';
import {
  fileSource,
  generatedSource,
  type InputChoice,
  type InputSource,
  sequenceLength,
} from '../data/input-source.js';
import { type ModelInput, modelInputs } from '../data/model-inputs.js';
import type { TensorValue } from '../data/tensor.js';
import { CheckFailure } from '../errors.js';
import type { Progress } from '../runtime/jobs.js';
import type { Provider } from '../runtime/providers.js';
import { type ModelLocation, openSession } from '../runtime/session.js';
import { compareSites, type MeasuredSite } from './compare-sites.js';
import { difference } from './difference.js';
import { exactBelowOf, findReplacements, hiddenNodes, type Replacement, siteId } from './replacement.js';
import type { RowsWithoutKeys } from './rows-without-keys.js';

export interface ValidationRequest extends InputChoice {
  readonly original: string;
  readonly rewritten: string;
  /** How messages call the rewritten model. */
  readonly label: string;
  /** Set for a model under a temporary name: its external data is then still beside the original only. */
  readonly staged: boolean;
  /** Null for a choice that suits the model. */
  readonly lengths: readonly number[] | null;
  readonly provider: Provider;
  readonly budgets: Budgets;
}

/** A model to be run and looked into. */
export interface OpenModel {
  readonly label: string;
  readonly model: ModelInfo;
  readonly location: ModelLocation;
  /** Folder of its external data. */
  readonly folder: string;
  readonly provider: Provider;
}

/** Inputs of one length, and what the original made of them. */
interface Reference {
  readonly length: number | null;
  readonly feeds: ReadonlyMap<string, TensorValue>;
  readonly outputs: ReadonlyMap<string, TensorValue>;
}

/** The shortest length that validation falls back to when the original takes no longer one. */
const SHORTEST = 16;
const SHORT_LENGTH = 256;
const LONG_LENGTH = 1024;

/**
 * Runs the original and the rewritten model on the same inputs and compares their outputs and, site by site,
 * the values that attention computes. One model is in memory at a time, and of the sites only as many values
 * as fit a fixed allowance.
 * @throws InputError when a model or the inputs are bad, or the original itself does not run
 * @throws CheckFailure when the rewritten model does not run where the original does
 */
export async function validateModels(request: ValidationRequest, progress: Progress): Promise<Validation> {
  const originalFile = openModelFile(request.original);
  const rewrittenFile = request.staged ? openStaged(request, originalFile) : openModelFile(request.rewritten);
  try {
    return await compareModels(
      {
        label: request.original,
        model: originalFile.model,
        location: { file: request.original },
        folder: dirname(request.original),
        provider: request.provider,
      },
      openRewritten(request, rewrittenFile.model),
      request,
      progress,
    );
  } finally {
    originalFile.close();
    rewrittenFile.close();
  }
}

async function compareModels(
  original: OpenModel,
  rewritten: OpenModel,
  request: ValidationRequest,
  progress: Progress,
): Promise<Validation> {
  const inputs = modelInputs(original.model);
  checkSameInterface(original, rewritten, inputs);
  const sources =
    request.inputs === null
      ? [generatedSource(inputs, 'padded'), generatedSource(inputs, 'single')]
      : [fileSource(request.inputs, request.tokenizer, inputs)];
  const source = sources[0]!;
  const replacements = findReplacements(original.model, rewritten.model);
  const notes: string[] = [];
  if (request.inputs === null) {
    notes.push('The inputs are random: errors on real data can differ. Give your own with --inputs.');
  }

  const lengths = chooseLengths(request, source, replacements);
  const total = lengths.length * (2 + replacements.length) + 2;
  let step = 0;
  const advance = (label: string): void => progress(step++, total, label);

  const references = await runOriginal(original, sources, lengths, request.lengths === null, notes, advance);
  const sites = await compareSites(
    original,
    rewritten,
    replacements,
    sitesByOutput(original.model),
    references.map(({ feeds }) => feeds),
    label => advance(label),
  );
  const hidden = hiddenNodes(rewritten.model).map(siteId);
  const compared = await runRewritten(rewritten, references, sites, advance);

  const results = references.map((reference, i): LengthValidation => {
    const outputs = compared.outputs[i]!;
    const measured = sites.map(site => site.lengths[i]!.result);
    const unseen = hidden.map(id => ({
      id,
      isolated: null,
      propagated: null,
      details: { isolated: null, propagated: null },
      rows_without_keys: 0,
      reach: null,
      note: 'inside a subgraph or function: compared at the outputs of the model only',
    }));
    const { max_error, max_output_error } = request.budgets;
    return {
      length: reference.length,
      outputs,
      sites: [...measured, ...unseen],
      passed:
        outputs.every(output => within(output, max_output_error)) &&
        measured.every(({ details }) => details.isolated === null || within(details.isolated, max_error)),
    };
  });
  if (sites.length > 0 && results.every(({ sites }) => sites.every(site => site.note !== null))) {
    notes.push('No site was approximated at these lengths: choose a longer --length to measure its error.');
  }
  return {
    original: original.label,
    rewritten: rewritten.label,
    inputs: source.description,
    budgets: request.budgets,
    runtime: compared.runtime,
    lengths: results,
    passed: results.every(({ passed }) => passed),
    notes,
  };
}

/**
 * Runs the original at every length, on the first of `sources` that it takes: some exports run with a single
 * batch row only. A length that was not asked for is halved until the model takes it.
 */
async function runOriginal(
  original: OpenModel,
  sources: readonly InputSource[],
  lengths: readonly (number | null)[],
  mayShorten: boolean,
  notes: string[],
  advance: (label: string) => void,
): Promise<Reference[]> {
  const failed = (error: unknown, what: string) =>
    error instanceof InputError
      ? error
      : new InputError(
          `${original.label}: the original model itself ${what}: ${(error as Error).message}`,
          {
            file: original.label,
            remedy: 'Give a --length and --inputs that the original takes, or export it again.',
          },
          { cause: error },
        );
  const note = (text: string) => {
    if (!notes.includes(text)) notes.push(text);
  };
  advance('loading the original');
  const session = await openSession(original.location, { provider: original.provider }).catch(error => {
    throw failed(error, 'cannot be loaded');
  });
  const references: Reference[] = [];
  try {
    for (const wanted of lengths) {
      advance(`original${atLength(wanted)}`);
      const attempts = sources.flatMap((source, s) =>
        shortened(wanted, mayShorten).map(length => ({ source, single: s > 0, length })),
      );
      for (const [a, { source, single, length }] of attempts.entries()) {
        const feeds = source.at(length);
        try {
          const outputs = await session.run(feeds);
          references.push({ length: length ?? sequenceLength(feeds), feeds, outputs });
        } catch (error) {
          if (a === attempts.length - 1) throw failed(error, `fails${atLength(length)}`);
          continue;
        }
        if (single) note('The original runs with one batch row only: padding was not tested.');
        if (length !== wanted) note(`The original does not run at ${wanted} tokens; ${length} were used.`);
        break;
      }
    }
  } finally {
    await session.release();
  }
  return references.filter(({ length }, i) => references.findIndex(other => other.length === length) === i);
}

/** `length`, and shorter ones to fall back to where that is allowed. */
function shortened(length: number | null, allowed: boolean): (number | null)[] {
  if (length === null || !allowed) return [length];
  const lengths = [length];
  while (lengths.at(-1)! / 2 >= SHORTEST) lengths.push(Math.floor(lengths.at(-1)! / 2));
  return lengths;
}

async function runRewritten(
  rewritten: OpenModel,
  references: readonly Reference[],
  sites: readonly MeasuredSite[],
  advance: (label: string) => void,
): Promise<{ runtime: RuntimeDescription; outputs: OutputValidation[][] }> {
  const failed = (error: unknown, what: string) =>
    new CheckFailure(`${rewritten.label}: the rewritten model ${what}: ${(error as Error).message}`, {
      cause: error,
    });
  advance('loading the rewritten model');
  const session = await openSession(rewritten.location, { provider: rewritten.provider }).catch(error => {
    throw failed(error, 'cannot be loaded');
  });
  try {
    const compared: OutputValidation[][] = [];
    for (const [i, { length, feeds, outputs }] of references.entries()) {
      advance(`rewritten${atLength(length)}`);
      const actual = await session.run(feeds).catch(error => {
        throw failed(error, `fails${atLength(length)}, where the original runs`);
      });
      const empty = sites
        .map(site => site.lengths[i]!.rowsWithoutKeys)
        .reduce<RowsWithoutKeys | null>((all, rows) => rows?.union(all) ?? all, null);
      compared.push(
        [...outputs].map(([name, expected]) => ({
          name,
          ...difference(expected, actual.get(name)!, empty?.elementsOfOutput(expected.dims)),
        })),
      );
    }
    return { runtime: session.runtime, outputs: compared };
  } finally {
    await session.release();
  }
}

/** One short length, and one at which the sites are approximated. */
function chooseLengths(
  request: ValidationRequest,
  source: InputSource,
  replacements: readonly Replacement[],
): (number | null)[] {
  if (!source.anyLength) {
    if (request.lengths !== null) {
      throw new InputError(`--length does not apply: the inputs (${source.description}) have one length`, {
        remedy: 'Leave --length out.',
      });
    }
    return [null];
  }
  if (request.lengths !== null) return [...new Set(request.lengths)];
  const exactBelow = Math.max(0, ...replacements.map(({ node }) => exactBelowOf(node)));
  const longest = source.longest ?? Number.POSITIVE_INFINITY;
  const lengths = [SHORT_LENGTH, Math.max(LONG_LENGTH, 2 * exactBelow)].map(length =>
    Math.min(length, longest),
  );
  return [...new Set(lengths)];
}

function checkSameInterface(original: OpenModel, rewritten: OpenModel, inputs: readonly ModelInput[]): void {
  const describe = (model: ModelInfo) =>
    [
      modelInputs(model).map(input => `${input.name}: ${input.type}`),
      model.graph.outputs.map(({ name }) => name),
    ]
      .map(names => names.join(', '))
      .join(' -> ');
  if (describe(original.model) === describe(rewritten.model)) return;
  throw new InputError(
    `${rewritten.label} is not a rewrite of ${original.label}: inputs and outputs are ` +
      `${describe(rewritten.model)}, not ${describe(original.model)}`,
    {
      file: rewritten.label,
      remedy: `Compare models that both take ${inputs.map(({ name }) => name).join(', ')}.`,
    },
  );
}

function sitesByOutput(model: ModelInfo) {
  return new Map(findSites(new ModelGraph(model)).sites.map(site => [site.output.value, site]));
}

function openStaged(request: ValidationRequest, original: ModelFile): Pick<ModelFile, 'model' | 'close'> {
  const source = new FileSource(request.rewritten);
  return {
    model: decodeModel(source, { file: request.label, sidecars: original.sidecars }),
    close: () => source.close(),
  };
}

function openRewritten(request: ValidationRequest, model: ModelInfo): OpenModel {
  const folder = dirname(request.staged ? request.original : request.rewritten);
  const inMemory = request.staged && externalLocations(model).length > 0;
  const location = inMemory
    ? { bytes: model.source.bytes(0, model.source.length), folder }
    : { file: request.rewritten };
  return { label: request.label, model, location, folder, provider: request.provider };
}

function atLength(length: number | null): string {
  return length === null ? '' : ` at ${length} tokens`;
}
