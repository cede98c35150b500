import { copyFileSync, existsSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { nativeLibraries } from '../custom-ops/runtime/node/binding.js';
import { customNodes } from '../custom-ops/runtime/node/placement.js';
import { InputError } from '../rewriter/errors.js';
import { editModel } from '../rewriter/onnx/edit.js';
import { FileTransaction } from '../rewriter/onnx/file-transaction.js';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import { stageModel } from '../rewriter/onnx/save-model.js';
import { inferenceService } from './export/inference-service.js';
import { tritonConfig } from './export/triton-config.js';
import { modelName, nameOfFile } from './model-name.js';
import { type CommonOptions, nonNegativeInteger, withCommonOptions } from './options.js';
import { note, print, printJson } from './terminal.js';

interface ExportOptions extends CommonOptions {
  readonly output: string;
  readonly name?: string;
  readonly device: 'cpu' | 'gpu';
  readonly maxBatch: number;
  readonly native?: true;
  readonly repository: string;
  readonly storageUri?: string;
  readonly externalData: 'copy' | 'link';
}

const CONFIG = 'config.pbtxt';
const SERVICE = 'inference-service.yaml';

export function exportCommand(): Command {
  return withCommonOptions(
    new Command('export')
      .description('Put a model into a Triton model repository, for Triton and KServe.')
      .argument('<model>', 'model file')
      .requiredOption('-o, --output <folder>', 'the repository; the model becomes a folder in it')
      .option('--name <name>', 'name of the model (default: that of the file)', modelName)
      .addOption(
        new Option('--device <kind>', 'what the server runs it on').choices(['cpu', 'gpu']).default('cpu'),
      )
      .option('--max-batch <n>', 'join up to n requests of equal shape in one batch', nonNegativeInteger, 0)
      .option('--native', 'put the library with native kernels beside it; else function bodies run')
      .option(
        '--repository <path>',
        'where the server sees the repository, for the path of that library',
        '/models',
      )
      .option('--storage-uri <uri>', `write ${SERVICE} for KServe too, with the repository there`, uri)
      .addOption(
        new Option('--external-data <mode>', 'what to do with external data files')
          .choices(['copy', 'link'])
          .default('copy'),
      ),
  ).action(exportModel);
}

async function exportModel(file: string, options: ExportOptions): Promise<void> {
  const { output, device, maxBatch, storageUri } = options;
  const name = options.name ?? nameOfFile(file);
  const folder = join(output, name);
  if (existsSync(folder)) {
    throw new InputError(`${folder}: exists already`, {
      file: folder,
      remedy: 'Remove it, or choose another --name or folder.',
    });
  }
  const library = options.native ? kernelLibrary() : null;
  const version = join(folder, '1');
  const onServer = library && [options.repository, name, '1', basename(library)].join('/');
  const input = openModelFile(file);
  const texts = new FileTransaction();
  try {
    const config = tritonConfig(input.model, { name, maxBatch, device, library: onServer });
    const files = [CONFIG, ...(library === null ? [] : [join('1', basename(library))])];
    writeFileSync(texts.stage(join(folder, CONFIG)), config);
    if (library !== null) copyFileSync(library, texts.stage(join(version, basename(library))));
    if (storageUri !== undefined) {
      files.push(SERVICE);
      writeFileSync(texts.stage(join(folder, SERVICE)), inferenceService(name, storageUri, device));
    }
    const target = join(version, 'model.onnx');
    const model = await stageModel(input, editModel(input.model, []), target, options);
    try {
      texts.commit();
      model.commit();
    } catch (error) {
      model.rollback();
      throw error;
    }
    const custom = customNodes(target).length;
    for (const notice of model.notices) note(`note: ${notice}`);
    const operators =
      custom === 0 ? null : library === null ? ('function-body' as const) : ('native-kernels' as const);
    const written = [...files, join('1', 'model.onnx')].map(path => join(folder, path));
    if (options.json)
      printJson({ name, folder, files: written, custom_operators: operators, library: onServer });
    else print(summary(written, custom, onServer, device));
  } catch (error) {
    texts.rollback();
    throw error;
  } finally {
    input.close();
  }
}

/** Parser of a place that KServe loads models from. */
function uri(text: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\/\S+$/i.test(text)) return text;
  throw new InvalidArgumentError('Expected a URI, such as s3://bucket/repository.');
}

/** @throws InputError when there is no native build */
function kernelLibrary(): string {
  const libraries = nativeLibraries();
  if (libraries.length > 0) return libraries[0]!;
  throw new InputError('--native: there is no native build of the kernels', {
    remedy: 'Make one with `npm run build:native`, or leave the option out: function bodies run without it.',
  });
}

function summary(
  files: readonly string[],
  customNodeCount: number,
  library: string | null,
  device: ExportOptions['device'],
): string {
  const how =
    customNodeCount === 0
      ? 'The model has no custom operators.'
      : library === null
        ? `${customNodeCount} custom operators run by their function bodies (--native adds kernels).`
        : `${customNodeCount} custom operators run by native CPU kernels; the server must find them at ${library}.`;
  const mixed =
    library !== null && device === 'gpu'
      ? ['On a GPU, values are copied to these kernels and back: leave out --native there.']
      : [];
  return [...files.map(file => `Wrote ${file}`), '', how, ...mixed].join('\n');
}
