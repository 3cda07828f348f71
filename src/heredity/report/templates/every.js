"use strict";
(() => {
  // Data come by script tags, which also work when the page is opened from disk; text enters by textContent alone.
  const place = document.getElementById("browse");
  if (!place) return;
  const form = place.querySelector("form");
  const list = document.getElementById("feature-list");
  const count = document.getElementById("feature-count");
  const detail = document.getElementById("feature");
  const PAGE = 100;
  const waiting = new Map();
  let index = null, order = [], shown = PAGE, current = "", wanted = "";

  window.heredity = {
    index: (data) => settle("index", data),
    chunk: ([member, chunk, rows]) => settle(`${member}-${chunk}`, rows),
  };

  function settle(name, data) {
    waiting.get(name).done(data);
  }

  function load(name) {
    if (!waiting.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => {
        entry.done = resolve;
        const script = document.createElement("script");
        script.src = `features/${name}.js`;
        script.onerror = () => { waiting.delete(name); reject(new Error(`features/${name}.js is not beside this page`)); };
        document.head.append(script);
      });
      waiting.set(name, entry);
    }
    return waiting.get(name).promise;
  }

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") made.textContent = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const SEEN = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍" };
  function visible(token) {
    return [...token].map((c) => SEEN[c] ?? (/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\p{Zs}]/u.test(c) ? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}` : c)).join("");
  }

  const number = (value) => value.toLocaleString("en-US");
  const percent = (value) => `${(100 * value).toLocaleString("en-US", { maximumSignificantDigits: 2 })}\u00a0%`;
  const decimal = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", "−"));
  const address = (member, latent) => `#feature=${encodeURIComponent(index.members[member].name)}/${latent}`;

  function name(member, latent) {
    const dot = element("i");
    dot.style.background = index.members[member].colour;
    return element("span", { class: "member" }, dot, `${index.members[member].name} ${latent ?? ""}`.trim());
  }

  // What became of a feature towards one relative: its sign, the colour's name, and words.
  const FATE = {
    up: { p: ["●", "persists", "found in"], g: ["▲", "emerges", "new: not in"], u: ["○", "undecided", "undecided in"] },
    down: { p: ["●", "persists", "persists in"], g: ["▼", "disappears", "disappears in"], u: ["○", "undecided", "undecided in"] },
  };
  function verdict(letter, towards, other) {
    const [mark, colour, words] = FATE[towards][letter];
    const sign = element("i", { text: mark });
    sign.style.color = `var(--${colour})`;
    return element("h4", { class: "verdict" }, sign, ` ${words} `, name(other));
  }

  // What is searched: one string per latent, made once.
  function prepare() {
    for (const member of index.members) {
      member.haystack = member.tokens.map((tokens, i) => `${tokens.join("\u0000")}\u0000${member.rules[i]}`.toLowerCase());
      member.everywhere = new Set(member.universal);
      member.agreement = new Set(member.agreed);
      member.letters = { up: Object.values(member.up).map((edge) => edge.fate), down: Object.values(member.down).map((edge) => edge.fate) };
    }
  }

  const FATES = {
    "": () => true,
    universal: (member, i) => member.everywhere.has(i),
    kept: (member, i) => member.letters.down.length > 0 && member.letters.down.every((fate) => fate[i] === "p"),
    agreed: (member, i) => member.agreement.has(i),
    lost: (member, i) => member.letters.down.some((fate) => fate[i] === "g"),
    old: (member, i) => member.letters.up.some((fate) => fate[i] === "p"),
    new: (member, i) => member.letters.up.length > 0 && member.letters.up.every((fate) => fate[i] === "g"),
  };
  const ORDERS = {
    interest: (member, i) => -(member.interest ? member.interest[i] : member.firings[i]),
    firings: (member, i) => -member.firings[i],
    rare: (member, i) => member.firings[i],
    score: (member, i) => -(member.scores[i] ?? -2),
    latent: (member, i) => i,
  };

  function search() {
    if (!index) return;
    const { text, member, fate, order: by } = Object.fromEntries(new FormData(form));
    wanted = text.toLowerCase();
    const exact = /^\d+$/.test(text.trim()) ? Number(text) : -1;
    order = [];
    index.members.forEach((one, place) => {
      if (member && one.name !== member) return;
      for (let i = 0; i < one.firings.length; i += 1) {
        if (!one.firings[i] || !FATES[fate](one, i)) continue;
        const hit = i === exact;
        if (wanted && !hit && !one.haystack[i].includes(wanted)) continue;
        order.push([hit ? -Infinity : ORDERS[by](one, i), place, i]);
      }
    });
    order.sort((a, b) => a[0] - b[0] || a[2] - b[2] || a[1] - b[1]);
    shown = PAGE;
    list.replaceChildren();
    count.textContent = order.length ? `${number(order.length)} latents` : "Nothing fits: try a shorter word, or another fate.";
    more(0);
  }

  function more(start) {
    list.querySelector(".more")?.remove();
    for (const [, place, i] of order.slice(start, shown)) {
      const one = index.members[place];
      const hits = (token) => (wanted && token.toLowerCase().includes(wanted) ? 0 : 1);  // what was searched comes first
      const tokens = [...new Set(one.tokens[i])].sort((a, b) => hits(a) - hits(b)).slice(0, 3).map(visible).join("  ");
      const link = element("a", { href: address(place, i) }, name(place, i), element("code", { text: tokens }));
      if (one.rules[i]) link.append(element("small", { text: `${one.rules[i]}${one.scores[i] === null ? "" : ` (${decimal(one.scores[i])})`}` }));
      list.append(element("li", address(place, i) === current ? { class: "chosen" } : {}, link));
    }
    if (order.length > shown) {
      const button = element("button", { type: "button", text: `${number(order.length - shown)} more` });
      button.addEventListener("click", () => { shown += PAGE; more(shown - PAGE); });
      list.append(element("li", { class: "more" }, button));
    }
  }

  async function page(member, latent) {
    const rows = await load(`${member}-${Math.floor(latent / index.chunk)}`);
    return rows[latent % index.chunk];
  }

  function contexts(it, from, to) {
    const strongest = Math.max(0, ...it.contexts.flatMap(([, , , fires]) => fires.filter((_, i) => i % 2)));
    return it.contexts.slice(from, to).map(([domain, document_, tokens, fires]) => {
      const heights = new Map();
      for (let i = 0; i < fires.length; i += 2) heights.set(fires[i], fires[i + 1]);
      const box = element("div", { class: "tokens" }, element("small", { text: `${index.domains[domain] ?? ""} · ${document_}` }));
      tokens.forEach((token, at) => {
        if (" \n\t".includes(token[0] ?? "x") || heights.has(at)) box.append(element("wbr"));
        if (!heights.has(at)) { box.append(visible(token)); return; }
        const mark = element("mark", { text: visible(token), title: heights.get(at).toFixed(2) });
        mark.style.setProperty("--a", (heights.get(at) / (strongest || 1)).toFixed(2));
        box.append(mark);
      });
      return box;
    });
  }

  const codes = (tokens) => tokens.flatMap((token, i) => [i ? ", " : "", element("code", { text: visible(token) })]);

  function facts(it, member, whole) {
    const one = index.members[member], lines = [];
    lines.push(element("p", {}, "Fires on ", ...codes([...new Set(one.tokens[it.l])]), `; ${number(it.n)} times, ${percent(it.rate)} of tokens${it.rare ? ", too seldom to be judged" : ""}.`));
    for (const [who, rule, score, none] of it.says) {
      if (rule) lines.push(element("p", {}, `${who === "rules" || !who ? "Rule" : who}: ${rule} `, element("span", { class: "note", text: `· score ${decimal(score)}, by chance ${decimal(none)}` })));
    }
    if (!whole) return lines;
    const shares = it.domains.map((share, i) => [share, index.domains[i]]).filter(([share]) => share > 0.005).sort((a, b) => b[0] - a[0]);
    lines.push(element("p", { text: `Its firings lie in ${shares.map(([share, domain]) => `${domain} (${percent(share)})`).join(", ")}; mean activation ${decimal(it.mean)}.` }));
    for (const pairs of it.sure) {
      const sure = pairs.filter(([, share]) => share >= 0.05).slice(0, 4);
      if (sure.length) lines.push(element("p", {}, "Most surely on ", ...sure.flatMap(([token, share], i) => [i ? ", " : "", element("code", { text: visible(token) }), ` (${percent(share)} of the time)`]), "."));
    }
    for (const [excess, at] of it.place) {
      if (excess > 0.1) lines.push(element("p", { text: `Keeps to a place in the context: on average its token ${Math.round(at)}.` }));
    }
    for (const [up, down, observed, none] of it.next) {
      if (up?.length) lines.push(element("p", {}, "Promotes ", ...codes(up), "; suppresses ", ...codes(down), ` as the next token (direct effect; observed ${decimal(observed)}, by chance below ${decimal(none)}).`));
    }
    if (it.cost) {
      const [cost, low, high] = it.cost.map((value) => (value === null ? null : value.toFixed(4).replace("-", "−")));
      lines.push(element("p", { text: `Taking it out changes the loss by ${cost} nats per token${low === null ? "" : ` (${low} to ${high})`}.` }));
    }
    if (it.found_by) lines.push(element("p", { text: `Agreed on by ${it.found_by} of the ${one.seeds} SAEs of ${one.name}.` }));
    return lines;
  }

  function card(it, member, latent, whole) {
    const box = element("div", {}, ...facts(it, member, whole), ...contexts(it, 0, whole ? 5 : 2));
    const rest = whole ? [] : contexts(it, 2, 5);
    if (rest.length) box.append(element("details", {}, element("summary", { text: `${rest.length} more` }), ...rest));
    return box;
  }

  async function relatives(it, member, towards) {
    const names = towards === "up" ? index.members[member].parents : index.members[member].children;
    const column = element("div", {}, element("h5", { text: towards === "up" ? "Ancestors" : "Descendants" }));
    for (const relative of names) {
      const other = index.members.findIndex((one) => one.name === relative);
      const found = it[towards][relative];
      const box = element("article", { class: "card" });
      column.append(box);
      if (!found.length) {
        box.append(element("header", {}, name(other)), element("p", { class: "note", text: it.rare ? "Too rare to be judged." : "No latent there fires with it."}));
        continue;
      }
      const [partner, r, joint, letter] = found[0];
      const link = element("a", { href: address(other, partner) }, name(other, partner));
      const how = letter === "p" ? "as " : "nearest: ";
      box.append(element("header", {}, verdict(letter, towards, other)));
      box.append(element("p", {}, how, link, `, r = ${decimal(r)}, ${number(joint)} firings in common`));
      box.append(card(await page(other, partner), other, partner, false));
      if (found.length > 1) {
        box.append(element("p", { class: "note" }, "Then: ", ...found.slice(1).flatMap(([l, r2], i) => [i ? ", " : "", element("a", { href: address(other, l), text: String(l) }), ` (r ${decimal(r2)})`])));
      }
    }
    return names.length ? column : null;
  }

  async function draw(member, latent) {
    const asked = current = address(member, latent);
    for (const row of list.children) row.classList.toggle("chosen", row.querySelector("a")?.getAttribute("href") === current);
    const it = await page(member, latent);
    const [up, down] = await Promise.all([relatives(it, member, "up"), relatives(it, member, "down")]);
    if (current !== asked) return;  // another one was asked for meanwhile
    const everywhere = index.members[member].everywhere.has(latent);
    const header = element("header", {}, element("h4", {}, name(member, latent)), everywhere ? element("span", { class: "note", text: "in all members" }) : null);
    const own = element("div", { class: "own" }, element("h5", { text: "The feature" }), element("article", { class: "card" }, header, card(it, member, latent, true)));
    detail.replaceChildren(element("div", { class: "kin" }, ...[up, own, down].filter(Boolean)));
  }

  async function show() {
    const asked = /^#feature=(.+)\/(\d+)$/.exec(location.hash);
    if (!asked) return;
    await ready();
    const [who, latent] = [decodeURIComponent(asked[1]), Number(asked[2])];
    const member = index.members.findIndex((one) => one.name === who);
    if (member < 0 || !index.members[member].firings[latent]) {
      detail.replaceChildren(element("p", { class: "warn", text: `No latent ${latent} of ${who} fires here.` }));
    } else {
      await draw(member, latent);
    }
    detail.scrollIntoView({ block: "nearest" });
  }

  let started = null;
  function ready() {
    started ??= (async () => {
      count.textContent = "Loading the list …";
      try {
        index = await load("index");
      } catch (error) {
        count.textContent = `${error.message}: keep the folder features where the page is.`;
        throw error;
      }
      prepare();
      search();
      if (order.length && !location.hash.startsWith("#feature=")) await draw(order[0][1], order[0][2]);
    })();
    return started;
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => ready().then(search));
  window.addEventListener("hashchange", () => show().catch(console.warn));
  new IntersectionObserver((entries, watch) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    ready().catch(console.warn);
  }, { rootMargin: "400px" }).observe(place);
  show().catch(console.warn);
})();
