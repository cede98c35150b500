import type { Execution } from '../../custom-ops/runtime/web/index.js';
import type { AttentionReach, Difference } from '../../rewriter/validation.js';

/** What the page asks its worker for. */
export interface ComparisonRequest {
  /** Bytes of the model, and its name in messages. */
  readonly model: Uint8Array;
  readonly name: string;
  /** Bytes for a byte-level model, at least as many as tokens; other models get generated inputs. */
  readonly text: Uint8Array;
  /** Tokens along every dynamic sequence axis. */
  readonly length: number;
  /** Attributes of the operator that are not to be its defaults. */
  readonly settings: Readonly<Record<string, number>>;
}

/** How one model ran. */
export interface Measurement {
  readonly execution: Execution;
  /** Of the first run, in which kernels are compiled, and the median of `runs` later ones. */
  readonly firstMs: number;
  readonly medianMs: number;
  readonly runs: number;
  /** Most bytes in GPU buffers at a time; null when the model ran on wasm. */
  readonly gpuBytes: number | null;
  /** Mean surprise, in bits, at the bytes to be predicted; null when the model does not predict bytes. */
  readonly bitsPerByte: number | null;
}

/** A model that could not run, with the reason. */
export interface Failure {
  readonly failure: string;
}

export interface Comparison {
  readonly name: string;
  readonly length: number;
  readonly inputs: 'text' | 'generated';
  readonly sites: readonly {
    readonly id: string;
    /** What took its place; null where it was kept. */
    readonly operator: string | null;
    readonly reason: string;
    readonly reach: AttentionReach | null;
  }[];
  readonly original: Measurement | Failure;
  readonly rewritten: Measurement | Failure;
  /** Of the final outputs; empty when one of the models could not run. */
  readonly differences: readonly (Difference & { readonly name: string })[];
  /** Bytes of the rewritten model. */
  readonly model: Uint8Array;
}

/** What the worker answers. */
export type WorkerMessage =
  | { readonly kind: 'progress'; readonly stage: string; readonly fraction: number }
  | { readonly kind: 'done'; readonly comparison: Comparison }
  | { readonly kind: 'failed'; readonly message: string; readonly remedy: string | null };
