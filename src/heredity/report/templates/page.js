"use strict";
(() => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const config = { responsive: true, displaylogo: false, displayModeBar: false, locale: "en" };

  // Colours are CSS variables in the figures; plotly wants values, so they are resolved in the theme of the moment.
  function resolved(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item, style)]));
    }
    return value;
  }

  function drawOne(plot, style) {
    const source = JSON.parse(document.getElementById(plot.dataset.plot).textContent);
    const { data, layout } = resolved(source, style);
    plot.querySelector(".unplotted")?.remove();
    window.Plotly.react(plot, data, layout, config);
  }

  function draw() {
    const style = getComputedStyle(root);
    for (const plot of plots) drawOne(plot, style);
  }

  // The first time one plot after the other, so that the page can be read and scrolled meanwhile.
  async function drawInTurn() {
    for (const plot of plots) {
      drawOne(plot, getComputedStyle(root));
      await new Promise((done) => setTimeout(done));
    }
  }

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  const choices = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = choices[(choices.indexOf(root.dataset.theme ?? "auto") + 1) % choices.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
    if (window.Plotly) draw();
  });

  const packed = document.getElementById("plotly-gzip");
  if (!packed) return;
  unpack(packed).then(drawInTurn).then(() => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    root.dataset.drawn = "yes";
  }).catch((error) => {
    for (const note of document.querySelectorAll(".unplotted")) {
      note.textContent = "This browser cannot unpack the plots (it lacks DecompressionStream); their numbers are below.";
    }
    console.warn(error);
  });
})();
