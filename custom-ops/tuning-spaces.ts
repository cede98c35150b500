import { localTuningSpace } from './local-attention/tuning-space.js';
import { multiLevelTuningSpace } from './multi-level-attention/tuning-space.js';
import { multipoleTuningSpace } from './multipole-attention/tuning-space.js';
import type { TuningSpace } from './tuning-space.js';

/** The operators that `tune` chooses from. */
export const TUNING_SPACES: readonly TuningSpace[] = [
  multipoleTuningSpace,
  multiLevelTuningSpace,
  localTuningSpace,
];
