import { NAME_SCOPES } from '../onnx/descriptions.js';
import type { Node } from './node.js';

/**
 * Module path of the layer that a node belongs to, as the exporter left it: in the node's metadata (dynamo) or
 * in its name (`/blocks.0/attn/MatMul`, legacy). Null when there is none.
 */
export function scopeOf(node: Node): string | null {
  const scopes = node.info.metadata.get(NAME_SCOPES);
  if (scopes !== undefined) {
    const paths = [...scopes.matchAll(/'([^']*)'|"([^"]*)"/g)].map(
      ([, single, double]) => single ?? double ?? '',
    );
    return paths.slice(0, -1).findLast(path => path !== '') ?? null;
  }
  if (!node.name.startsWith('/')) return null;
  const parts = node.name.split('/').slice(1, -1);
  return parts.length === 0 ? null : parts.join('.');
}
