import { readFileSync, writeFileSync } from 'node:fs';
import { MULTIPOLE_CASES, type MultipoleCase } from '../../custom-ops/multipole-attention/cases.js';
import { type CaseRecord, decodeCaseFile, encodeCaseFile } from '../custom-ops/case-file.js';
import { compareWithReference, gpuCase } from './compare-results.js';
import { GPU_TYPES, type GpuType } from './element-types.js';

/**
 * The shared cases that the CUDA kernels cover, in every type, and the comparison of the runner's results with
 * the reference. On a machine with a GPU:
 *
 *   node dist/test/gpu/cases.js write CASES.bin [NAME_PART [small]]
 *   multipole-attention-runner CASES.bin RESULTS.bin
 *   node dist/test/gpu/cases.js check RESULTS.bin
 */
const covered = MULTIPOLE_CASES.filter(
  ({ parameters }) =>
    parameters.order === 0 && parameters.retrieveError === 0 && parameters.hierarchy === 'flat',
);

/** Every covered case in every type, by the name it has in case files; `small` leaves out the large ones. */
export function gpuCases(
  namePart = '',
  small = false,
): Map<string, { shared: MultipoleCase; type: GpuType }> {
  const all = new Map<string, { shared: MultipoleCase; type: GpuType }>();
  for (const shared of covered) {
    if (small && shared.large) continue;
    for (const type of GPU_TYPES) {
      const name = `${shared.name} [${type}]`;
      if (name.includes(namePart)) all.set(name, { shared, type });
    }
  }
  return all;
}

export function gpuCaseFile(namePart: string, small: boolean): Uint8Array {
  const records = Array.from(gpuCases(namePart, small), ([name, { shared, type }]) =>
    gpuCase(name, shared, type),
  );
  return encodeCaseFile(records, new Set(['scale', 'retrieve_mass', 'retrieve_error']));
}

/** What is wrong with each case of a results file; empty lists where nothing is. */
export function checkResults(file: Uint8Array): Map<string, string[]> {
  const cases = gpuCases();
  const check = (results: CaseRecord) => {
    const found = cases.get(results.name);
    return found ? compareWithReference(found.shared, found.type, results) : ['no such case'];
  };
  return new Map(decodeCaseFile(file).map(results => [results.name, check(results)]));
}

const [verb, file, part = '', size] = process.argv[1]?.endsWith('/cases.js') ? process.argv.slice(2) : [];
if (verb === 'write' && file) {
  writeFileSync(file, gpuCaseFile(part, size === 'small'));
} else if (verb === 'check' && file) {
  const results = Array.from(checkResults(readFileSync(file)));
  const failed = results.filter(([, problems]) => problems.length > 0);
  for (const [name, problems] of failed) process.stdout.write(`${name}: ${problems.join('; ')}\n`);
  process.stdout.write(`${results.length - failed.length} of ${results.length} cases agree\n`);
  process.exitCode = failed.length > 0 || results.length === 0 ? 1 : 0;
}
