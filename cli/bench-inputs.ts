import { InputError } from '../rewriter/errors.js';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import { chosenSource, generatedSource, type InputChoice, sequenceLength } from './data/input-source.js';
import { type ModelInput, modelInputs } from './data/model-inputs.js';
import { repeatBatch } from './data/repeat-batch.js';
import type { TensorValue } from './data/tensor.js';

/** Inputs of one length for a benchmark. */
export interface InputRequest extends InputChoice {
  /** Length of generated inputs, or of the text to take; null for the inputs as they are. */
  readonly length: number | null;
  readonly batch: number;
}

/**
 * What a model is fed.
 * @throws InputError when the model cannot be read, or does not take such inputs
 */
export function feedsOf(model: string, request: InputRequest): ReadonlyMap<string, TensorValue> {
  const { length, batch } = request;
  const source = chosenSource(request, inputsOf(model));
  if (length !== null && !source.anyLength) checkLength(model, source.at(null), length);
  return repeatBatch(source.at(length), batch);
}

function checkLength(model: string, feeds: ReadonlyMap<string, TensorValue>, length: number): void {
  const only = sequenceLength(feeds);
  if (only === length) return;
  const what = only === null ? 'no certain length' : `${only} tokens`;
  throw new InputError(`${model}: its inputs are of ${what}, not ${length} tokens`, {
    file: model,
    remedy: only === null ? 'Leave --length out.' : `Choose --length ${only}.`,
  });
}

/** Whether a model takes generated inputs of any length. */
export function takesAnyLength(model: string): boolean {
  return generatedSource(inputsOf(model), 'single').anyLength;
}

function inputsOf(model: string): ModelInput[] {
  const opened = openModelFile(model);
  try {
    return modelInputs(opened.model);
  } finally {
    opened.close();
  }
}
