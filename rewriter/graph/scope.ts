import type { Node } from './node.js';

/** Node metadata of torch's dynamo exporter: a Python list of module paths, outermost first, then the call. */
const NAME_SCOPES = 'pkg.torch.onnx.name_scopes';

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
