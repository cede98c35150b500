import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { concatenate } from '../../rewriter/onnx/bytes.js';
import type { ValueInfo } from '../../rewriter/onnx/model-info.js';
import { VERSION } from '../version.js';
import {
  errorDocument,
  HEADER_LENGTH,
  MODEL_VERSION,
  RequestError,
  tensorMetadata,
} from './inference-protocol.js';
import { Metrics } from './metrics.js';
import type { ModelThread } from './model-thread.js';

/** A model as the server shows it. */
export interface ServedModel {
  readonly name: string;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
}

interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array;
}

/** Seconds after which a client is told to come back when the queue is full. */
const RETRY_AFTER = '1';

/**
 * An HTTP server that speaks the Open Inference Protocol, version 2, over REST, for one model; `GET /metrics` is for
 * Prometheus. It does not listen yet.
 * @param bodyLimit bytes of the largest request
 */
export function modelServer(model: ServedModel, thread: ModelThread, bodyLimit: number): Server {
  const metrics = new Metrics();
  const inference = async (request: IncomingMessage, gone: AbortSignal): Promise<Reply> => {
    try {
      const headerLength = lengthHeader(request);
      const body = await bodyOf(request, bodyLimit);
      const { response, runMs } = await thread.infer(body, headerLength, gone);
      metrics.countRun(runMs);
      metrics.countResponse(200);
      return { status: 200, ...response };
    } catch (error) {
      const refusal = refusalOf(error);
      metrics.countResponse(refusal.status);
      throw refusal;
    }
  };
  const own = pathsOf(model);
  const answer = async (request: IncomingMessage, gone: AbortSignal): Promise<Reply> => {
    const path = pathOf(request);
    const infer = /^(.*)\/infer$/.exec(path)?.[1];
    const isInference = infer !== undefined && own.has(infer);
    const found = isInference ? null : describe(path, model, thread, metrics);
    if (!isInference && found === null) {
      throw new RequestError(404, `no such path: ${path}; the model is at /v2/models/${model.name}`);
    }
    const methods = isInference ? ['POST'] : ['GET', 'HEAD'];
    if (!methods.includes(request.method ?? '')) {
      throw new RequestError(405, `${path} takes ${methods.join(' or ')}`);
    }
    return found ?? inference(request, gone);
  };
  return createServer(async (request, response) => {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    try {
      send(response, await answer(request, gone.signal));
    } catch (error) {
      const { status, message } = refusalOf(error);
      // The rest of a body that is too long is not read: the connection cannot be used again.
      const headers = {
        'content-type': 'application/json',
        ...(status === 429 ? { 'retry-after': RETRY_AFTER } : {}),
        ...(request.complete ? {} : { connection: 'close' }),
      };
      send(response, { status, headers, body: errorDocument(message) });
    }
  });
}

/** What a GET of this path shows; null where there is nothing. */
function describe(path: string, model: ServedModel, thread: ModelThread, metrics: Metrics): Reply | null {
  const readiness = (document: Readonly<Record<string, unknown>>): Reply =>
    json({ ...document, ready: thread.accepts }, thread.accepts ? 200 : 503);
  if (path === '/v2') {
    return json({ name: 'onnx-rewrite', version: VERSION, extensions: ['binary_tensor_data'] });
  }
  if (path === '/v2/health/live') return json({ live: true });
  if (path === '/v2/health/ready') return readiness({});
  if (path === '/metrics') {
    const headers = { 'content-type': 'text/plain; version=0.0.4' };
    return { status: 200, headers, body: metrics.render(model.name, thread.waiting) };
  }
  const own = pathsOf(model);
  if (own.has(path)) {
    return json({
      name: model.name,
      versions: [MODEL_VERSION],
      platform: 'onnx_onnxv1',
      inputs: model.inputs.map(tensorMetadata),
      outputs: model.outputs.map(tensorMetadata),
    });
  }
  const ready = /^(.*)\/ready$/.exec(path)?.[1];
  return ready !== undefined && own.has(ready) ? readiness({ name: model.name }) : null;
}

/** The paths of a model: without a version, and with that of the only one. */
function pathsOf({ name }: ServedModel): ReadonlySet<string> {
  return new Set(['', `/versions/${MODEL_VERSION}`].map(version => `/v2/models/${name}${version}`));
}

function send(response: ServerResponse, { status, headers, body }: Reply): void {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function json(document: unknown, status = 200): Reply {
  return { status, headers: { 'content-type': 'application/json' }, body: JSON.stringify(document) };
}

function refusalOf(error: unknown): RequestError {
  if (error instanceof RequestError) return error;
  return new RequestError(500, (error as Error).message);
}

/** The decoded path of a request, without a slash at its end. */
function pathOf({ url = '/' }: IncomingMessage): string {
  try {
    return decodeURIComponent(new URL(url, 'http://host').pathname).replace(/\/$/, '');
  } catch {
    throw new RequestError(400, `no path of this server: ${url}`);
  }
}

function lengthHeader(request: IncomingMessage): number | null {
  const value = request.headers[HEADER_LENGTH];
  if (value === undefined) return null;
  if (typeof value !== 'string' || !/^\d+$/.test(value)) {
    throw new RequestError(400, `${HEADER_LENGTH} is not a number of bytes`);
  }
  return Number(value);
}

async function bodyOf(request: IncomingMessage, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLong = () =>
    new RequestError(413, `the request is longer than ${limit} bytes; --max-body sets the limit`);
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLong();
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of request as AsyncIterable<Uint8Array>) {
    length += part.length;
    if (length > limit) throw tooLong();
    parts.push(part);
  }
  return concatenate(parts);
}
