import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { decodeNpz, encodeNpz } from '../../cli/data/npz.js';
import type { TensorValue } from '../../cli/data/tensor.js';
import type { TrainedHeads } from './byte-model.js';

/**
 * Queries, keys and values of sites: read from a file where there is one, else recorded, and written to it where
 * one is named. A benchmark that finds its file does nothing but measure.
 * @param file name of an .npz file, which holds one length; undefined: no file
 */
export async function recordedHeads(
  file: string | undefined,
  record: () => Promise<TrainedHeads[]>,
): Promise<TrainedHeads[]> {
  if (file === undefined) return record();
  if (!existsSync(file)) writeFileSync(file, encodeHeads(await record()));
  return decodeHeads(readFileSync(file));
}

const PARTS = ['query', 'key', 'value'] as const;

function encodeHeads(sites: readonly TrainedHeads[]): Uint8Array {
  const entries = sites.flatMap(heads => {
    const dims = [1, heads.heads, heads.length, heads.size];
    const scalars = { causal: Number(heads.causal), scale: heads.scale };
    return [
      ...PARTS.map(part => [part, { type: 'float32', dims, data: heads[part] }] as const),
      ...Object.entries(scalars).map(
        ([name, value]) => [name, { type: 'float32', dims: [1], data: Float32Array.of(value) }] as const,
      ),
    ].map(([name, value]): [string, TensorValue] => [`${heads.site}/${name}`, value]);
  });
  return encodeNpz(new Map(entries));
}

function decodeHeads(bytes: Uint8Array): TrainedHeads[] {
  const tensors = decodeNpz(bytes);
  const sites = new Set([...tensors.keys()].map(name => name.slice(0, name.lastIndexOf('/'))));
  return [...sites].map(site => {
    const tensor = (name: string) => tensors.get(`${site}/${name}`)!;
    const data = (name: string) => tensor(name).data as Float32Array;
    const [, heads = 0, length = 0, size = 0] = tensor('query').dims;
    const scalars = { causal: data('causal')[0] === 1, scale: data('scale')[0]! };
    const [query, key, value] = [data('query'), data('key'), data('value')];
    return { site, heads, length, size, ...scalars, query, key, value };
  });
}
