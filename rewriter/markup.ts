/** HTML that is safe to insert as it stands. */
export class Markup {
  constructor(readonly text: string) {}
}

type Insertion = string | number | Markup | null | readonly Insertion[];

/** Template tag for HTML: everything inserted is escaped, except `Markup`; null inserts nothing. */
export function html(literals: TemplateStringsArray, ...insertions: readonly Insertion[]): Markup {
  return new Markup(
    literals.reduce((text, literal, i) => text + render(insertions[i - 1] ?? null) + literal),
  );
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function render(insertion: Insertion): string {
  if (insertion === null) return '';
  if (insertion instanceof Markup) return insertion.text;
  if (Array.isArray(insertion)) return insertion.map(render).join('');
  return String(insertion).replace(/[&<>"']/g, character => ENTITIES[character]!);
}
