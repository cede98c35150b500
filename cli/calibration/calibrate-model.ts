import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import { TUNING_SPACES } from '../../custom-ops/tuning-spaces.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';
import { modelInputs } from '../data/model-inputs.js';
import type { Progress } from '../runtime/jobs.js';
import { Engine } from '../tune/engine.js';
import { TunableModel } from '../tune/tunable-model.js';
import { DEFAULT_SEED, DEFAULT_WINDOWS, readCalibrationWindows } from '../tune/tuning-data.js';
import { MOST_WINDOWS, recordMoments } from './record-moments.js';

export interface CalibrationRequest {
  readonly model: string;
  /** Ids of the sites to calibrate. */
  readonly sites: readonly string[];
  /** The user's data, and the tokens of one window of it, as `tune` takes them. */
  readonly files: readonly string[];
  readonly length: number | null;
  /** Tokenizer of texts; null where their bytes are the ids. */
  readonly tokenizer: string | null;
}

export interface Calibration {
  /** By id of the site. */
  readonly moments: ReadonlyMap<string, HeadMoments>;
  readonly windows: number;
  /** Tokens of a window; null for inputs without a sequence. */
  readonly length: number | null;
}

/**
 * Runs a model on the user's data and sums up what its queries and keys are like.
 * @throws InputError when the data is bad or does not fit the model, or the model does not run on it
 */
export async function calibrateModel(request: CalibrationRequest, progress: Progress): Promise<Calibration> {
  const file = openModelFile(request.model);
  try {
    const wanted = new Set(request.sites);
    const model = new TunableModel(file, TUNING_SPACES, id => wanted.has(id));
    const { files, tokenizer, length } = request;
    // As `tune` has them by default: a plan of its is then rewritten with the rotations that it was measured with.
    const dealt = { windows: DEFAULT_WINDOWS, seed: DEFAULT_SEED, hide: null };
    const data = readCalibrationWindows({ files, tokenizer, length, ...dealt }, modelInputs(file.model));
    const windows = Math.min(data.windows.length, MOST_WINDOWS);
    let step = 0;
    progress(step, windows, 'loading the model');
    const engine = new Engine(request.model, model.folder, { threads: null, stock: false });
    const moments = await recordMoments(model, data, engine, name =>
      progress(step++ % windows, windows, `calibrating on ${name}`),
    );
    return { moments, windows, length: data.length };
  } finally {
    file.close();
  }
}
