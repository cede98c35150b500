import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { SiteDescription } from '../../rewriter/inspection.js';
import type { Sizes } from './fixture-inputs.js';

const FOLDER = fileURLToPath(new URL('../../../test/zoo/', import.meta.url));

/** One attention of a fixture as its architecture and configuration say; null claims nothing. */
export interface ExpectedSite
  extends Pick<
    SiteDescription,
    | 'query_heads'
    | 'kv_heads'
    | 'head_dim'
    | 'scale'
    | 'mask'
    | 'causal'
    | 'kind'
    | 'dtype'
    | 'past'
    | 'alignment'
  > {
  /** Part of the module path that the exporter keeps. */
  readonly scope: string;
  readonly replaceable: boolean | null;
  readonly empty_row: SiteDescription['empty_row'] | null;
}

/** One input: `dims` mixes symbols and numbers; `fill` says which values it takes (generate/exporting.py). */
export interface FixtureInput {
  readonly name: string;
  readonly dims: readonly (string | number)[];
  readonly fill: string;
  readonly dtype: 'int64' | 'int32' | 'bool' | 'float32' | 'float16';
}

export interface Fixture {
  readonly name: string;
  readonly file: string;
  readonly inputs: readonly FixtureInput[];
  readonly sites: readonly ExpectedSite[];
  /** Largest batch at which ONNX Runtime runs the original; absent when any. */
  readonly most_batches?: number;
  /** The only sizes at which ONNX Runtime runs the original; absent when any. */
  readonly sizes?: Sizes;
  /** Why ONNX Runtime does not run the original at all. */
  readonly not_runnable?: string;
}

/** All fixtures of the folder, in alphabetical order. */
export function fixtures(): Fixture[] {
  const entries: Record<string, Omit<Fixture, 'name' | 'file'>> = JSON.parse(
    readFileSync(join(FOLDER, 'expectations.json'), 'utf8'),
  );
  const models = readdirSync(FOLDER).filter(file => file.endsWith('.onnx'));
  return models.sort().map(model => {
    const name = model.slice(0, -'.onnx'.length);
    const entry = entries[name];
    if (entry === undefined) throw new Error(`${model} has no entry in expectations.json`);
    return { name, file: join(FOLDER, model), ...entry };
  });
}
