import { InputError } from '../../../rewriter/errors.js';

interface Refusal {
  readonly pattern: RegExp;
  readonly problem: string;
  readonly remedy: string;
}

const REFUSALS: readonly Refusal[] = [
  {
    pattern:
      /onnxruntime_providers_(cuda|shared)|CUDA execution provider is not enabled|AppendExecutionProvider_Cuda/,
    problem: 'the CUDA execution provider does not load',
    remedy:
      'Fetch it with `npm rebuild onnxruntime-node --ignore-scripts=false --onnxruntime-node-install=cuda12`, and ' +
      'install CUDA 12 and cuDNN 9, their libraries on LD_LIBRARY_PATH; or leave out "cuda".',
  },
  {
    pattern: /no CUDA-capable device|driver version is insufficient|invalid device ordinal/,
    problem: 'the CUDA execution provider finds no GPU that it can use',
    remedy:
      'Check that `nvidia-smi` shows one, that CUDA_VISIBLE_DEVICES does not hide it, and that the driver is of ' +
      'the version of CUDA or later; or leave out "cuda".',
  },
  {
    pattern: /cannot use the (graph capture|CUDA Graph) feature/,
    problem: 'runs of this model cannot be captured as CUDA graphs',
    remedy:
      'Leave out enableGraphCapture: it takes models whose nodes all run on the GPU, but for those that compute ' +
      'shapes, and without control flow.',
  },
];

/** What ONNX Runtime says where CUDA is missing or refuses, as an error with the remedy; undefined for other errors. */
export function cudaRefusal(error: unknown): InputError | undefined {
  const { message } = error as Error;
  const refusal = REFUSALS.find(({ pattern }) => pattern.test(message));
  return refusal && new InputError(`${refusal.problem}: ${message}`, { remedy: refusal.remedy });
}
