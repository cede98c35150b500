import { STYLE } from '../../rewriter/report-style.js';
import type { Comparison, ComparisonRequest, WorkerMessage } from './messages.js';
import { renderComparison } from './render-comparison.js';

/** The page: choices go to the worker, its results into sections of the page. */

const MODELS = {
  encoder: new URL('../../models/byte-lm/encoder.onnx', import.meta.url),
  causal: new URL('../../models/byte-lm/causal.onnx', import.meta.url),
} as const;
/** Models whose own attention an operator computes exactly: nothing in them is approximated. */
const STRUCTURED = {
  elementwise: new URL('../../models/structured-attention/elementwise.onnx', import.meta.url),
  'multi-level': new URL('../../models/structured-attention/multi-level.onnx', import.meta.url),
} as const;
const NOTES: Readonly<Record<string, string>> = {
  encoder: 'Six layers, trained to predict hidden bytes.',
  causal: 'Six layers, trained to predict the next byte.',
  elementwise: 'Six layers, trained with this attention, which is fused and not approximated.',
  'multi-level': 'Six layers, trained with this attention, which is fused and not approximated.',
  file: 'Exported by PyTorch, Optimum or transformers. It stays on this device.',
};
const NOVEL = new URL('../../models/byte-lm/mansfield-park.txt', import.meta.url);
const LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768];
/** Lengths at which a GPU, and anything else, answers within seconds. */
const LENGTH_ON_GPU = 4096;
const LENGTH_IN_SOFTWARE = 1024;
const LENGTH_ON_WASM = 2048;

const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const setup = element<HTMLFormElement>('setup');
const fields = element<HTMLFieldSetElement>('fields');
const model = element<HTMLSelectElement>('model');
const file = element<HTMLInputElement>('file');
const text = element<HTMLSelectElement>('text');
const ownText = element<HTMLTextAreaElement>('own-text');
const length = element<HTMLSelectElement>('length');
const retrieve = element<HTMLSelectElement>('retrieve');
const run = element<HTMLButtonElement>('run');
const cancel = element<HTMLButtonElement>('cancel');
const progress = element('progress');
const bar = element<HTMLProgressElement>('bar');
const stage = element('stage');
const failure = element('failure');
const results = element('results');

/** The file that was chosen or dropped last. */
let dropped: File | null = null;
let worker: Worker | null = null;

const style = document.createElement('style');
style.textContent = STYLE.text;
document.head.prepend(style);

for (const tokens of LENGTHS) length.add(new Option(tokens.toLocaleString('en'), String(tokens)));
await describeDevice();
showChoices();

model.addEventListener('change', showChoices);
text.addEventListener('change', showChoices);
file.addEventListener('change', () => take(file.files?.[0]));
cancel.addEventListener('click', () => {
  stopWorker();
  finish();
  results.textContent = '';
  run.focus();
});
setup.addEventListener('submit', event => {
  event.preventDefault();
  void start();
});

for (const type of ['dragover', 'dragleave', 'drop'] as const) {
  document.addEventListener(type, event => {
    event.preventDefault();
    document.body.classList.toggle('dropping', type === 'dragover');
    if (type === 'drop') take((event as DragEvent).dataTransfer?.files[0]);
  });
}

/** Says what models will run on, and starts with a length that fits it. */
async function describeDevice(): Promise<void> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const notice = element('device');
  const software = adapter?.info.isFallbackAdapter === true;
  length.value = String(!adapter ? LENGTH_ON_WASM : software ? LENGTH_IN_SOFTWARE : LENGTH_ON_GPU);
  if (!adapter) {
    notice.textContent =
      'This browser offers no WebGPU adapter. Models run on WebAssembly instead, the rewritten one by its function bodies: right, but slow. Start with few tokens.';
    notice.classList.add('bad');
    return;
  }
  const { vendor, architecture, description } = adapter.info;
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'a GPU';
  notice.textContent = software
    ? `WebGPU runs on ${name}, in software: right, but slow. Start with few tokens.`
    : `WebGPU runs on ${name}.`;
}

function showChoices(): void {
  const own = model.value === 'file';
  element('model-note').textContent = NOTES[model.value]!;
  element('file-field').hidden = !own;
  element('text-field').hidden = own;
  element('own-text-field').hidden = own || text.value !== 'own';
  const structured = model.value in STRUCTURED;
  element('retrieve-field').hidden = structured;
  element('length-note').hidden = structured;
}

function take(chosen: File | undefined): void {
  if (!chosen) return;
  dropped = chosen;
  model.value = 'file';
  element('file-name').textContent = `Chosen: ${chosen.name}`;
  showChoices();
}

async function start(): Promise<void> {
  failure.hidden = true;
  fields.disabled = true;
  run.disabled = true;
  cancel.hidden = false;
  progress.hidden = false;
  results.textContent = '';
  showProgress('Fetching the model', 0);
  worker ??= openWorker();
  const mine = worker;
  try {
    const request = await choices();
    // The user may have canceled meanwhile.
    if (worker === mine) mine.postMessage(request);
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

async function choices(): Promise<ComparisonRequest> {
  const tokens = Number(length.value);
  const settings = retrieve.value === '' ? {} : { retrieve: Number(retrieve.value) };
  if (model.value === 'file') {
    if (!dropped) throw new Error('Choose a model file first, or drop one on this page.');
    const bytes = new Uint8Array(await dropped.arrayBuffer());
    return { model: bytes, name: dropped.name, text: await textBytes(tokens), length: tokens, settings };
  }
  const address = { ...MODELS, ...STRUCTURED }[model.value as keyof typeof MODELS | keyof typeof STRUCTURED];
  return {
    model: await download(address),
    name: `${model.value}.onnx`,
    text: await textBytes(tokens),
    length: tokens,
    settings,
  };
}

/** As many bytes of the chosen text as there are tokens. */
async function textBytes(tokens: number): Promise<Uint8Array> {
  const own = model.value !== 'file' && text.value === 'own';
  const source = own ? new TextEncoder().encode(ownText.value) : await download(NOVEL);
  if (source.length === 0) throw new Error('Write some text first.');
  return Uint8Array.from({ length: tokens }, (_, n) => source[n % source.length]!);
}

async function download(address: URL): Promise<Uint8Array> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: the server answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function openWorker(): Worker {
  const opened = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
  opened.addEventListener('message', ({ data }: MessageEvent<WorkerMessage>) => hear(data));
  opened.addEventListener('error', ({ message }) => fail(message || 'The worker could not be loaded.'));
  return opened;
}

function stopWorker(): void {
  worker?.terminate();
  worker = null;
}

function hear(message: WorkerMessage): void {
  if (message.kind === 'progress') showProgress(message.stage, message.fraction);
  else if (message.kind === 'failed') fail([message.message, message.remedy].filter(Boolean).join('. '));
  else show(message.comparison);
}

function show(comparison: Comparison): void {
  // A device that ran out of memory serves nobody any more.
  if ('failure' in comparison.original || 'failure' in comparison.rewritten) stopWorker();
  results.innerHTML = renderComparison(comparison).text;
  element('download').addEventListener('click', () => save(comparison.model, comparison.name));
  finish();
  results.focus();
}

function showProgress(what: string, fraction: number): void {
  stage.textContent = `${what} …`;
  bar.value = fraction;
}

function fail(message: string): void {
  stopWorker();
  failure.textContent = message;
  failure.hidden = false;
  finish();
}

function finish(): void {
  fields.disabled = false;
  run.disabled = false;
  cancel.hidden = true;
  progress.hidden = true;
}

function save(bytes: Uint8Array, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  link.download = name.replace(/(\.onnx)?$/, '-rewritten.onnx');
  link.click();
  URL.revokeObjectURL(link.href);
}
