import type { Site } from '../rewriter/site.js';

/** Channels of a value where the graph does not tell heads or head size. */
const ASSUMED_WIDTH = 1024;
const FLOAT_BYTES = 4;

/** Bytes that one of a site's values takes for a batch row and position, at most float32. */
export function bytesPerPosition(site: Pick<Site, 'queryHeads' | 'headDim'> | undefined): number {
  const width = site?.queryHeads && site.headDim ? site.queryHeads * site.headDim : ASSUMED_WIDTH;
  return width * FLOAT_BYTES;
}
