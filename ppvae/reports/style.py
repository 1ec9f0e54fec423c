"""The look of a report page, light and dark, on a screen and on paper."""

STYLE = """
:root {
  --paper: #ffffff; --ink: #22272e; --soft: #5b6470; --line: #dfe3e8; --shade: #f5f7f9; --accent: #0072b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191d; --ink: #e4e7eb; --soft: #a3acb8; --line: #353b44; --shade: #20252b; --accent: #6bbcf0;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); color-scheme: light dark; }
body {
  margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
p, nav, .note { max-width: 46rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .6rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line);
}
p { margin: .6rem 0; }
.lead { color: var(--soft); font-size: 1.05rem; }
a { color: var(--accent); text-underline-offset: .15em; }
nav ol {
  list-style: none; margin: 1.2rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem;
  font-size: .95rem;
}
code {
  font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--shade);
  padding: .1em .3em; border-radius: .25em; overflow-wrap: anywhere;
}
.note {
  background: var(--shade); border-left: 3px solid var(--accent); border-radius: 0 .3rem .3rem 0;
  margin: 1.2rem 0; padding: .3rem 1rem;
}
figure { margin: 1.6rem 0; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 46rem; }
.table figcaption { margin-bottom: .5rem; }
.picture figcaption { margin-top: .5rem; }
.picture img {
  display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; padding: .5rem;
}
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: .38rem .9rem .38rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
}
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; border-bottom: 2px solid var(--line); }
td:first-child { font-weight: 500; }
.number { text-align: right; white-space: nowrap; padding-left: 1rem; }
th.number { white-space: normal; }
.spanning { color: var(--soft); font-weight: 400; font-style: italic; }
tbody tr:hover { background: var(--shade); }
@media print {
  main { max-width: none; padding: 0; }
  figure { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""
