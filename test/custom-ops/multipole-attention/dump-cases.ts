import { writeFileSync } from 'node:fs';
import { caseInputs, MULTIPOLE_CASES } from '../../../custom-ops/multipole-attention/cases.js';
import { attributesOf } from '../../../custom-ops/multipole-attention/parameters.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/reference.js';
import { type CaseRecord, caseTensor, encodeCaseFile } from '../case-file.js';

/**
 * Writes every case with the oracle's result, for test programs in other languages:
 *
 *   node dist/test/custom-ops/multipole-attention/dump-cases.js OUT.bin [NAME_PART]
 *
 * Tensors of a case: query, key, value, key_mask and past_query where connected (float32, also for float16
 * cases, whose name holds "float16" and whose values are representable), output, lse, the oracle's choices
 * key_clusters [levels,B,G,S], query_centroids [blocks,B,H,C,D], query_clusters [B,H,P+N],
 * retrieved [B,H,N,width], and exact [B,H,N,E], exact attention.
 */
function record(shared: (typeof MULTIPOLE_CASES)[number]): CaseRecord {
  const inputs = caseInputs(shared);
  const { batch, queryHeads, kvHeads, queries, keys, past, headDim, parameters } = shared;
  const { output, lse, choices } = multipoleAttention(inputs, parameters);
  const exact = multipoleAttention(inputs, { ...parameters, retrieve: [-1] }).output;
  const rows = batch * queryHeads * queries;
  return {
    name: shared.name,
    attributes: attributesOf(parameters),
    tensors: [
      caseTensor('query', inputs.query.dims, inputs.query.data),
      caseTensor('key', inputs.key.dims, inputs.key.data),
      caseTensor('value', inputs.value.dims, inputs.value.data),
      ...(inputs.keyMask ? [caseTensor('key_mask', [batch, keys], inputs.keyMask)] : []),
      ...(inputs.pastQuery ? [caseTensor('past_query', inputs.pastQuery.dims, inputs.pastQuery.data)] : []),
      caseTensor('output', output.dims, output.data),
      caseTensor('lse', lse.dims, lse.data),
      caseTensor(
        'key_clusters',
        [choices.keyClusters.length, batch, kvHeads, keys],
        joinInts(choices.keyClusters),
      ),
      caseTensor(
        'query_centroids',
        [choices.queryCentroids.length, batch, queryHeads, parameters.queryClusters, headDim],
        joinFloats(choices.queryCentroids),
      ),
      caseTensor('query_clusters', [batch, queryHeads, past + queries], choices.queryClusters),
      caseTensor(
        'retrieved',
        [batch, queryHeads, queries, rows === 0 ? 0 : choices.retrieved.length / rows],
        choices.retrieved,
      ),
      caseTensor('exact', exact.dims, exact.data),
    ],
  };
}

function joinInts(parts: readonly Int32Array[]): Int32Array {
  return Int32Array.from(parts.flatMap(part => Array.from(part)));
}

function joinFloats(parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap(part => Array.from(part)));
}

const [file, part = ''] = process.argv.slice(2);
if (file === undefined) {
  process.stderr.write('usage: dump-cases OUT.bin [NAME_PART]\n');
  process.exitCode = 2;
} else {
  const chosen = MULTIPOLE_CASES.filter(({ name }) => name.includes(part));
  writeFileSync(
    file,
    encodeCaseFile(chosen.map(record), new Set(['scale', 'retrieve_mass', 'retrieve_error'])),
  );
  process.stdout.write(`${chosen.length} cases written to ${file}\n`);
}
