import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { type ModelSession, openSession } from '../../cli/runtime/session.js';
import { temporaryFolder } from '../temporary-folder.js';
import { MAIN, onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

const IDS = [5, 80, 3, 200, 17, 17, 256, 0];

describe('onnx-rewrite serve', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);
  let server: ChildProcess | null = null;
  let url = '';

  /** Starts a server on a free port; the model is `tiny`. */
  async function serve(...args: string[]): Promise<void> {
    server = spawn(process.execPath, [MAIN, 'serve', path('tiny.onnx'), '--port', '0', '--json', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [line] = await once(server.stdout!.setEncoding('utf8'), 'data');
    url = JSON.parse(line).url;
  }

  async function stop(signal: NodeJS.Signals): Promise<number | null> {
    const running = server!;
    server = null;
    const ended = once(running, 'exit');
    running.kill(signal);
    return (await ended)[0];
  }

  const infer = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
    fetch(`${url}/infer`, { method: 'POST', body, headers });

  const ids = (data: unknown = IDS, shape = [1, IDS.length]) => ({
    name: 'input_ids',
    shape,
    datatype: 'INT64',
    data,
  });

  async function expected(): Promise<Float32Array> {
    const session: ModelSession = await openSession({ file: path('tiny.onnx') });
    const data = BigInt64Array.from(IDS, BigInt);
    const results = await session.run(new Map([['input_ids', { type: 'int64', dims: [1, 8], data }]]));
    await session.release();
    return results.get('logits')!.data as Float32Array;
  }

  beforeEach(() => writeFileSync(path('tiny.onnx'), tinyTransformer().model));

  afterEach(() => {
    server?.kill('SIGKILL');
    server = null;
  });

  it('answers many requests on kept connections without a warning', async () => {
    await serve();
    let warnings = '';
    server!.stderr!.setEncoding('utf8').on('data', text => {
      warnings += text;
    });
    for (let n = 0; n < 30; n++) {
      const answer = await infer(JSON.stringify({ inputs: [ids()] }));
      assert.equal(answer.status, 200);
      await answer.arrayBuffer();
    }
    assert.equal(await stop('SIGTERM'), 0);
    assert.doesNotMatch(warnings, /Warning/);
  });

  it('answers inference as JSON and as binary data, and ends well', async () => {
    await serve();
    const reference = await expected();
    const plain = await infer(JSON.stringify({ id: 'one', inputs: [ids()] }));
    assert.equal(plain.status, 200);
    const { model_name, id, outputs } = (await plain.json()) as {
      model_name: string;
      id: string;
      outputs: [{ name: string; shape: number[]; datatype: string; data: number[] }];
    };
    assert.deepEqual([model_name, id], ['tiny', 'one']);
    assert.deepEqual(
      [outputs[0].name, outputs[0].shape, outputs[0].datatype],
      ['logits', [1, 8, 257], 'FP32'],
    );
    assert.deepEqual(Float32Array.from(outputs[0].data), reference);

    const data = Buffer.from(BigInt64Array.from(IDS, BigInt).buffer);
    const { data: _, ...head } = ids();
    const document = Buffer.from(
      JSON.stringify({
        inputs: [{ ...head, parameters: { binary_data_size: data.length } }],
        outputs: [{ name: 'logits', parameters: { binary_data: true } }],
      }),
    );
    const binary = await infer(new Uint8Array(Buffer.concat([document, data])), {
      'Inference-Header-Content-Length': String(document.length),
    });
    assert.equal(binary.status, 200);
    const length = Number(binary.headers.get('inference-header-content-length'));
    const body = await binary.arrayBuffer();
    const answer = JSON.parse(Buffer.from(body, 0, length).toString());
    assert.deepEqual(answer.outputs[0].parameters, { binary_data_size: reference.byteLength });
    assert.deepEqual(new Float32Array(body.slice(length)), reference);

    const metrics = await (await fetch(new URL('/metrics', url))).text();
    assert.match(metrics, /onnx_rewrite_responses_total\{model="tiny",status="200"\} 2/);
    assert.match(metrics, /onnx_rewrite_run_seconds_count\{model="tiny"\} 2/);
    assert.equal(await stop('SIGTERM'), 0);
  });

  it('describes the server and the model', async () => {
    await serve('--name', 'other');
    const get = async (location: string) => {
      const response = await fetch(new URL(location, url));
      return [response.status, await response.json()] as const;
    };
    const description = {
      name: 'other',
      versions: ['1'],
      platform: 'onnx_onnxv1',
      inputs: [{ name: 'input_ids', datatype: 'INT64', shape: [-1, -1] }],
      outputs: [{ name: 'logits', datatype: 'FP32', shape: [-1, -1, 257] }],
    };
    assert.deepEqual(await get('/v2/models/other'), [200, description]);
    assert.deepEqual(await get('/v2/models/other/versions/1'), [200, description]);
    assert.deepEqual(await get('/v2/models/other/ready'), [200, { name: 'other', ready: true }]);
    assert.deepEqual(await get('/v2/health/live'), [200, { live: true }]);
    assert.deepEqual(await get('/v2/health/ready'), [200, { ready: true }]);
    const [, { extensions }] = await get('/v2');
    assert.deepEqual(extensions, ['binary_tensor_data']);
  });

  it('refuses bad requests with the reason, and goes on', async () => {
    await serve('--max-body', '1');
    const refusals: [body: string, reason: RegExp][] = [
      ['{"inputs"', /not JSON/],
      ['[]', /not a JSON object/],
      ['{}', /"inputs" is not an array/],
      [JSON.stringify({ inputs: [] }), /input "input_ids" is missing/],
      [JSON.stringify({ inputs: [ids(), ids()] }), /given twice/],
      [JSON.stringify({ inputs: [{ ...ids(), name: 'ids' }] }), /no input "ids"; it takes input_ids/],
      [JSON.stringify({ inputs: [{ ...ids(), datatype: 'FP32' }] }), /takes INT64, not "FP32"/],
      [JSON.stringify({ inputs: [ids(IDS, [8])] }), /takes shape \[batch, sequence\], not \[8\]/],
      [JSON.stringify({ inputs: [ids(IDS, [1, 9])] }), /takes 9 elements, not 8/],
      [JSON.stringify({ inputs: [ids([1.5, 2], [1, 2])] }), /1.5 is not an element of INT64/],
      [JSON.stringify({ inputs: [ids(['a'], [1, 1])] }), /"a" is not an element/],
      [JSON.stringify({ inputs: [ids()], outputs: [{ name: 'x' }] }), /no output "x"; it gives logits/],
      [
        JSON.stringify({ inputs: [{ ...ids(), parameters: { binary_data_size: 64 } }] }),
        /64 bytes of binary data announced, fewer sent/,
      ],
    ];
    for (const [body, reason] of refusals) {
      const response = await infer(body);
      assert.equal(response.status, 400, body);
      assert.match(((await response.json()) as { error: string }).error, reason);
    }
    const outOfRange = await infer(JSON.stringify({ inputs: [ids([9999], [1, 1])] }));
    assert.equal(outOfRange.status, 500);
    assert.match(((await outOfRange.json()) as { error: string }).error, /out of data bounds/);
    assert.equal((await infer(new Uint8Array(2 << 20))).status, 413);
    assert.equal((await fetch(`${url}/infer`)).status, 405);
    assert.equal((await fetch(new URL('/v2/models/none', url))).status, 404);
    assert.equal((await fetch(new URL('/%ff', url))).status, 400);
    const probe = await fetch(new URL('/v2/health/live', url), { method: 'HEAD' });
    assert.deepEqual([probe.status, await probe.text()], [200, '']);
    assert.equal((await infer(JSON.stringify({ inputs: [ids()] }))).status, 200);
  });

  it('stays alive while the model runs, refuses what the queue cannot hold, and finishes what is under way', async () => {
    await serve('--max-queue', '1');
    const long = Array.from({ length: 3000 }, (_, i) => i % 257);
    const body = JSON.stringify({ inputs: [ids(long, [1, 3000])], outputs: [{ name: 'logits' }] });
    const responses = Array.from({ length: 4 }, () => infer(body));
    assert.equal((await fetch(new URL('/v2/health/live', url))).status, 200);
    const refused = await Promise.any(
      responses.map(async pending => {
        const response = await pending;
        if (response.status !== 429) throw new Error('answered');
        return response;
      }),
    );
    assert.equal(refused.headers.get('retry-after'), '1');
    const exit = stop('SIGINT');
    const statuses = await Promise.all(responses.map(async response => (await response).status));
    assert.deepEqual([...new Set(statuses)].sort(), [200, 429]);
    assert.equal(await exit, 0);
  });

  it('survives a client that leaves in the middle of a request', async () => {
    await serve();
    const started = request(`${url}/infer`, { method: 'POST', headers: { 'content-length': '1000' } });
    started.on('error', () => {});
    started.write('{');
    await once(started, 'socket');
    started.destroy();
    assert.equal((await infer(JSON.stringify({ inputs: [ids()] }))).status, 200);
  });

  it('says so when it cannot listen, or the model does not load', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as { port: number };
    const busy = await onnxRewrite(['serve', path('tiny.onnx'), '--port', String(port)]);
    taken.close();
    assert.equal(busy.exitCode, 2);
    assert.match(busy.stderr, /cannot listen on 127\.0\.0\.1:\d+.*\n {2}Choose another --port/);
    writeFileSync(path('bad.onnx'), tinyTransformer().model.subarray(0, 900));
    const bad = await onnxRewrite(['serve', path('bad.onnx'), '--port', '0']);
    assert.equal(bad.exitCode, 2);
    assert.match(bad.stderr, /bad\.onnx/);
  });
});
