import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { type CaseRecord, decodeCaseFile, encodeCaseFile } from '../custom-ops/case-file.js';
import { GPU_TYPES, type GpuType } from './element-types.js';

/** One case of an operator in one element type. */
export interface GpuCase {
  /** Too much work for emulation. */
  readonly large?: boolean;
  /** Inputs and attributes for the runner. */
  record(name: string): CaseRecord;
  /** Names what is wrong with the runner's results; empty when nothing is. */
  problems(results: CaseRecord): string[];
}

/** The cases of an operator by the names they have in case files, written for a runner and compared with the reference. */
export class CaseSuite {
  readonly #cases: ReadonlyMap<string, GpuCase>;

  /**
   * @param floats attributes that are numbers with fractions
   * @param build a case in a type; null where it has none
   */
  constructor(
    names: readonly string[],
    private readonly floats: ReadonlySet<string>,
    build: (index: number, type: GpuType) => GpuCase | null,
  ) {
    this.#cases = new Map(
      names.flatMap((name, index) =>
        GPU_TYPES.flatMap(type => {
          const built = build(index, type);
          return built ? [[`${name} [${type}]`, built] as const] : [];
        }),
      ),
    );
  }

  /** A case file of the cases whose name holds `namePart`; `small` leaves out the large ones. */
  file(namePart = '', small = false): Uint8Array {
    const chosen = Array.from(this.#cases).filter(
      ([name, { large }]) => name.includes(namePart) && !(small && large),
    );
    return encodeCaseFile(
      chosen.map(([name, built]) => built.record(name)),
      this.floats,
    );
  }

  /** What is wrong with each case of a results file; empty lists where nothing is. */
  check(results: Uint8Array): Map<string, string[]> {
    return new Map(
      decodeCaseFile(results).map(record => [
        record.name,
        this.#cases.get(record.name)?.problems(record) ?? ['no such case'],
      ]),
    );
  }

  /**
   * The program `node MODULE write CASES [NAME_PART [small]]` and `node MODULE check RESULTS`; does nothing where the module is
   * imported.
   */
  runAsProgram(module: string): void {
    const [, program, verb, file, part, size] = process.argv;
    if (!program || !file || pathToFileURL(program).href !== module) return;
    if (verb === 'write') {
      writeFileSync(file, this.file(part, size === 'small'));
      return;
    }
    const results = Array.from(this.check(readFileSync(file)));
    const failed = results.filter(([, problems]) => problems.length > 0);
    for (const [name, problems] of failed) process.stdout.write(`${name}: ${problems.join('; ')}\n`);
    process.stdout.write(`${results.length - failed.length} of ${results.length} cases agree\n`);
    process.exitCode = failed.length > 0 || results.length === 0 ? 1 : 0;
  }
}

/** The float32 numbers of a result, in the shape that they should have. */
export function resultTensor({ tensors }: CaseRecord, name: string, dims: readonly number[]) {
  const bytes = tensors.find(tensor => tensor.name === name)?.data ?? new Uint8Array();
  return { dims: [...dims], data: new Float32Array(new Uint8Array(bytes).buffer) };
}

/** What an assertion finds wrong. */
export function problemsOf(assertion: () => void): string[] {
  try {
    assertion();
    return [];
  } catch (error) {
    return [(error as Error).message];
  }
}
