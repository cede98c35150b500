import type { AddressInfo } from 'node:net';
import { Command, InvalidArgumentError, Option } from 'commander';
import { InputError } from '../rewriter/errors.js';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import { finishOnSignal } from './cleanup.js';
import { modelInputs } from './data/model-inputs.js';
import { modelName, nameOfFile } from './model-name.js';
import {
  type CommonOptions,
  nonNegativeInteger,
  positiveInteger,
  threadCount,
  withCommonOptions,
} from './options.js';
import { describeRuntime } from './runtime/describe-runtime.js';
import { PROVIDERS, type Provider } from './runtime/providers.js';
import { modelServer } from './serve/model-server.js';
import { ModelThread } from './serve/model-thread.js';
import { note, print, printJson } from './terminal.js';

interface ServeOptions extends CommonOptions {
  readonly name?: string;
  readonly host: string;
  readonly port: number;
  readonly provider: Provider;
  readonly threads?: number;
  readonly maxQueue: number;
  readonly maxBody: number;
}

const MEGABYTE = 1 << 20;

export function serveCommand(): Command {
  return withCommonOptions(
    new Command('serve')
      .description('Serve a model over HTTP, by the Open Inference Protocol (KServe, Triton).')
      .argument('<model>', 'model file')
      .option('--name <name>', 'name of the model in paths (default: that of the file)', modelName)
      .option('--host <address>', 'address to listen on; 0.0.0.0 for all', '127.0.0.1')
      .option('--port <n>', 'port to listen on; 0 for any that is free', port, 8000)
      .addOption(
        new Option('--provider <name>', 'execution provider')
          .choices(Object.keys(PROVIDERS).filter(provider => provider !== 'webgpu'))
          .default('cpu'),
      )
      .option('--threads <n>', 'threads of one operator', threadCount)
      .option('--max-queue <n>', 'requests that may wait; more are refused', nonNegativeInteger, 64)
      .option('--max-body <mb>', 'largest request, in MiB', positiveInteger, 256),
  ).action(serve);
}

async function serve(file: string, options: ServeOptions): Promise<void> {
  const { provider, threads, maxQueue, maxBody } = options;
  const name = options.name ?? nameOfFile(file);
  const opened = openModelFile(file);
  const inputs = modelInputs(opened.model);
  const { graph } = opened.model;
  opened.close();
  const fed = graph.inputs.filter(value => inputs.some(input => input.name === value.name));
  const setup = { file, name, inputs, options: { provider, ...(threads === undefined ? {} : { threads }) } };
  const thread = new ModelThread(setup, maxQueue);
  const model = { name, inputs: fed, outputs: graph.outputs };
  const server = modelServer(model, thread, maxBody * MEGABYTE);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port, options.host, resolve);
    });
  } catch (error) {
    await thread.close();
    throw new InputError(
      `cannot listen on ${options.host}:${options.port}: ${(error as Error).message}`,
      { remedy: 'Choose another --port or --host.' },
      { cause: error },
    );
  }
  finishOnSignal(async () => {
    note('Finishing what is under way; interrupt again to stop at once.');
    server.close();
    await thread.close();
    server.closeAllConnections();
  });
  try {
    const runtime = await thread.ready;
    const { address, port: actual, family } = server.address() as AddressInfo;
    const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${actual}/v2/models/${name}`;
    if (options.json) printJson({ url, model: file, runtime });
    else print(`Serving ${file} at ${url}\n${describeRuntime(runtime)}`);
  } catch (error) {
    server.close();
    server.closeAllConnections();
    throw error;
  }
}

function port(text: string): number {
  const value = nonNegativeInteger(text);
  if (value > 65535) throw new InvalidArgumentError('Expected a port, 0 to 65535.');
  return value;
}
