// Draws the reference from openapi.json, so that it says what the server does. All
// text goes into the page as text, never as HTML.

const find = (id) => document.getElementById(id);
const base = new URL('.', location.href).href.replace(/\/$/, '');

/** make makes an element: its attributes, then its children. */
function make(tag, attributes = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (value === true) element.setAttribute(name, '');
		else if (value !== false && value !== undefined) element.setAttribute(name, value);
	}
	element.append(...children.flat().filter((child) => child !== undefined && child !== null));
	return element;
}

const nameOf = (ref) => ref.slice(ref.lastIndexOf('/') + 1);

/** typeOf says a schema in a few words, with links to the types. */
function typeOf(schema) {
	if (schema.$ref) return [make('a', { href: `#type-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
	if (schema.oneOf) return schema.oneOf.flatMap((one, i) => (i ? [' or ', ...typeOf(one)] : typeOf(one)));
	if (schema.enum) return [schema.enum.join(' | ')];
	if (schema.items) return ['list of ', ...typeOf(schema.items)];
	if (schema.additionalProperties?.type || schema.additionalProperties?.$ref) return ['map to ', ...typeOf(schema.additionalProperties)];
	return [schema.format === 'date-time' ? 'time' : (schema.type ?? 'anything')];
}

/** table makes a table with a heading for each column that readers of screens hear. */
function table(label, heads, rows) {
	return make('table', { 'aria-label': label },
		make('thead', {}, make('tr', {}, heads.map((head) => make('th', { scope: 'col', class: 'quiet' }, head)))),
		make('tbody', {}, rows.map(([first, ...rest]) => make('tr', {}, make('th', { scope: 'row' }, first), rest.map((cell) => make('td', {}, cell))))));
}

// What stands for a parameter in examples.
const samples = { name: 'lobby', identity: 'ada', track: 'TR_…', sid: 'RM_…' };

/** call is what a request is made of: what was filled in, or samples. */
function call(operation, values = {}) {
	const path = operation.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values[name] || samples[name] || name).replaceAll('%E2%80%A6', '…'));
	const query = new URLSearchParams();
	for (const { name, in: place } of operation.parameters) {
		if (place === 'query' && values[name]) query.append(name, values[name]);
	}
	const headers = Object.fromEntries(operation.parameters.filter((p) => p.in === 'header' && values[p.name]).map((p) => [p.name, values[p.name]]));
	return { method: operation.method, url: `${base}/v1${path}${query.size ? `?${query}` : ''}`, headers, body: values.body };
}

const quoted = (text) => JSON.stringify(text);
const forShell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

const languages = {
	curl: ({ method, url, body }) => [
		`curl ${method === 'GET' ? '' : `-X ${method} `}-H "Authorization: Bearer $TOKEN"`,
		...(body ? [`-H 'Content-Type: application/json'`, `-d ${forShell(body)}`] : []),
		forShell(url),
	].join(' \\\n  '),
	JavaScript: ({ method, url, body }) => `const answer = await fetch(${quoted(url)}, {
  method: ${quoted(method)},
  headers: { Authorization: \`Bearer \${token}\`${body ? `, 'Content-Type': 'application/json'` : ''} },${body ? `\n  body: JSON.stringify(${body}),` : ''}
});
if (!answer.ok) throw new Error((await answer.json()).detail);`,
	Python: ({ method, url, body }) => `import json, requests

answer = requests.request(${quoted(method)}, ${quoted(url)},
    headers={"Authorization": f"Bearer {token}"}${body ? `,\n    json=json.loads(${quoted(JSON.stringify(JSON.parse(body)))})` : ''})
answer.raise_for_status()`,
	Go: ({ method, url, body }) => `req, err := http.NewRequestWithContext(ctx, ${quoted(method)}, ${quoted(url)}, ${body ? `strings.NewReader(\`${body}\`)` : 'nil'})
if err != nil {
	return err
}
req.Header.Set("Authorization", "Bearer "+token)${body ? `\nreq.Header.Set("Content-Type", "application/json")` : ''}
res, err := http.DefaultClient.Do(req)`,
};

/** operationsOf lists the operations of a document in the order of its tags. */
function operationsOf(document) {
	const order = ['get', 'post', 'put', 'patch', 'delete'];
	const all = Object.entries(document.paths).flatMap(([path, methods]) => order.filter((method) => methods[method]).map((method) => {
		const route = methods[method];
		const media = route.requestBody?.content['application/json'];
		return { ...route, path, method: method.toUpperCase(), parameters: route.parameters ?? [], media,
			example: media?.example && JSON.stringify(media.example, null, 2) };
	}));
	return document.tags.map(({ name }) => ({ name, operations: all.filter((operation) => operation.tags[0] === name) }));
}

/** answersOf lists what an operation answers. */
const answersOf = (responses) => table('Answers', ['Status', 'Body'], Object.entries(responses).map(([status, response]) => [
	make('code', {}, status === 'default' ? 'else' : status),
	Object.values(response.content ?? {}).flatMap((media, i) => [i ? ' or ' : '', ...typeOf(media.schema)]).concat(response.content ? [] : [response.description]),
]));

/** credentials is the Authorization header of what was filled in, if anything was. */
function credentials() {
	const key = find('key').value.trim();
	const secret = find('secret').value;
	if (!key) return {};
	return { Authorization: secret ? `Basic ${btoa(`${key}:${secret}`)}` : `Bearer ${key}` };
}

/** tryOut is the form that sends a request, and redraws the example as it is filled in. */
function tryOut(operation, redraw) {
	const fields = operation.parameters.map((parameter) => {
		const input = make('input', { name: parameter.name, autocomplete: 'off', spellcheck: 'false', required: parameter.in === 'path' });
		return make('label', {}, `${parameter.name} `, make('span', { class: 'quiet' }, parameter.in), input);
	});
	const body = operation.media && make('textarea', { name: 'body', spellcheck: 'false' }, operation.example ?? '');
	const result = make('pre', { 'aria-live': 'polite', tabindex: '0', 'aria-label': 'Answer', hidden: true });
	const form = make('form', { class: 'try' }, fields, body && make('label', {}, 'Body ', body),
		make('button', {}, `Send ${operation.method}`), result);
	const values = () => Object.fromEntries(new FormData(form));
	form.addEventListener('input', () => redraw(values()));
	form.addEventListener('submit', async (event) => {
		event.preventDefault();
		const { method, url, headers, body: sent } = call(operation, values());
		result.hidden = false;
		result.textContent = '…';
		try {
			const answer = await fetch(url, { method, credentials: 'omit', headers: { ...headers, ...credentials(), ...(sent ? { 'Content-Type': 'application/json' } : {}) }, body: sent || undefined });
			const text = await answer.text();
			let shown = text;
			try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
			result.textContent = `${answer.status} ${answer.statusText}\n\n${shown}`;
		} catch (error) {
			result.textContent = `There was no answer: ${error.message}`;
		}
	});
	return make('details', {}, make('summary', {}, 'Try it'), form);
}

const redraws = []; // of all examples, when another language is chosen

function draw(operation) {
	const example = make('pre', { tabindex: '0', 'aria-label': `Example of ${operation.operationId}` });
	let values = { body: operation.example };
	const redraw = (filled = values) => {
		values = filled;
		try {
			example.textContent = languages[find('language').value](call(operation, values));
		} catch {
			example.textContent = 'The body is not JSON.';
		}
	};
	redraws.push(redraw);
	redraw();
	return make('article', { id: operation.operationId, 'data-text': [operation.operationId, operation.path, operation.method, operation.summary, operation.description,
		...operation.parameters.map((p) => p.name)].join(' ').toLowerCase() },
		make('h3', {}, make('span', { class: `method ${operation.method.toLowerCase()}` }, operation.method), ' ', make('code', {}, `/v1${operation.path}`)),
		make('p', {}, operation.summary, ' ', make('span', { class: 'quiet' }, operation.description ?? '',
			operation['x-role'] ? ` Role of the dashboard: ${operation['x-role']}.` : '')),
		operation.parameters.length ? [make('h4', {}, 'Parameters'), table('Parameters', ['Name', 'In', 'Type', 'Meaning'], operation.parameters.map((p) =>
			[make('code', {}, p.name), p.in, typeOf(p.schema), p.description ?? '']))] : [],
		operation.media ? [make('h4', {}, 'Body'), make('p', {}, typeOf(operation.media.schema))] : [],
		make('h4', {}, 'Answers'), answersOf(operation.responses),
		make('h4', {}, 'Example'), example, tryOut(operation, redraw));
}

/** drawHook draws what the server asks of others. */
function drawHook([name, methods]) {
	return Object.values(methods).map((route) => make('article', { id: route.operationId, 'data-text': `${name} ${route.summary} ${route.description}`.toLowerCase() },
		make('h3', {}, make('code', {}, `hooks.${name}`)),
		make('p', {}, route.summary, ' ', make('span', { class: 'quiet' }, route.description ?? '')),
		Object.values(route.requestBody?.content ?? {}).map((media) => [make('h4', {}, 'Body'), make('p', {}, typeOf(media.schema))]).flat(),
		make('h4', {}, 'Answers'), answersOf(route.responses)));
}

function drawType([name, schema]) {
	const required = new Set(schema.required);
	const fields = Object.entries(schema.properties ?? {});
	return make('article', { id: `type-${name}`, 'data-text': [name, ...fields.map(([field]) => field)].join(' ').toLowerCase() },
		make('h3', {}, make('code', {}, name)),
		fields.length ? table(name, ['Field', 'Type', 'Meaning'], fields.map(([field, of]) =>
			[[make('code', {}, field), required.has(field) ? '' : make('span', { class: 'quiet' }, ' optional')], typeOf(of), of.description ?? ''])) : make('p', {}, typeOf(schema)));
}

/** search shows what has all the words, and the headings of what is shown. */
function search() {
	const words = find('search').value.toLowerCase().split(/\s+/).filter(Boolean);
	let shown = 0;
	for (const section of document.querySelectorAll('main section')) {
		let here = 0;
		for (const article of section.querySelectorAll('article')) {
			const hit = words.every((word) => article.dataset.text.includes(word));
			article.hidden = !hit;
			here += hit ? 1 : 0;
		}
		section.hidden = here === 0;
		shown += here;
	}
	for (const link of document.querySelectorAll('nav a')) link.parentElement.hidden = find(link.hash.slice(1))?.hidden ?? false;
	find('state').textContent = shown ? (words.length ? `${shown} found` : '') : 'Nothing has these words.';
}

async function start() {
	const answer = await fetch('openapi.json');
	if (!answer.ok) throw new Error(`openapi.json was answered with ${answer.status}`);
	const api = await answer.json();
	document.title = `${api.info.title} API`;
	document.querySelector('h1').firstChild.textContent = `${api.info.title} API `;
	find('version').textContent = api.info.version;
	find('language').append(...Object.keys(languages).map((name) => make('option', {}, name)));
	find('language').addEventListener('change', () => redraws.forEach((redraw) => redraw()));

	const sections = [
		...operationsOf(api).map(({ name, operations }) => [name, operations.map((operation) => [operation.operationId, draw(operation)])]),
		['hooks', Object.entries(api.webhooks ?? {}).flatMap(drawHook).map((article) => [article.id, article])],
		['types', Object.entries(api.components.schemas).map((type) => [type[0], drawType(type)])],
	];
	find('content').append(
		make('p', {}, api.info.description),
		make('p', {}, 'The same for machines: ', make('a', { href: 'openapi.json' }, 'openapi.json'), ' (OpenAPI 3.1).'),
		...sections.map(([name, articles]) => make('section', { 'aria-labelledby': `group-${name}` }, make('h2', { id: `group-${name}` }, name), articles.map(([, article]) => article))));
	document.querySelector('nav').append(...sections.flatMap(([name, articles]) => [make('strong', {}, name),
		make('ul', {}, articles.map(([label, article]) => make('li', {}, make('a', { href: `#${article.id}` }, label))))]));
	find('contents').open = !matchMedia('(max-width: 50rem)').matches;
	find('search').addEventListener('input', search);
	search();
	document.addEventListener('keyup', (event) => { // and not when it goes down: it would be typed there
		if (event.key === '/' && !event.target.closest('input, textarea, select')) find('search').focus();
	});
	if (location.hash) find(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

start().catch((error) => { find('state').textContent = `The reference could not be drawn: ${error.message}`; });
