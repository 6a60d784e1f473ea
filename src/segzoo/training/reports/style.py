"""The style sheet of a training report, for screens of any width, light or dark, and for paper."""

STYLE = """
:root {
  --paper: #ffffff; --card: #f5f7f9; --ink: #1f2429; --faint: #5c6670; --line: #dde2e7;
  --accent: #1f5fa8; --track: #e3e8ed; --warn: #fff3d6; --warn-ink: #6b4700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1e2327; --ink: #e6e9ec; --faint: #9aa5af; --line: #323a41;
    --accent: #6ba8ec; --track: #2b3238; --warn: #3b2f12; --warn-ink: #ffd98a;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1080px; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; padding-top: 2.2rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
a { color: var(--accent); }
.kind { margin: 0; color: var(--faint); letter-spacing: .06em; text-transform: uppercase; font-size: .78rem; }
.protocol, figcaption { color: var(--faint); font-size: .9rem; }
.note {
  background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: .6rem .9rem; margin: .8rem 0;
}
dl { margin: 0; }
dd { margin: 0; }
.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.4rem 0 .8rem; }
.scores > div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.scores dt { color: var(--faint); font-size: .85rem; }
.scores dd { font-size: 2rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scores > div:first-child dd { color: var(--accent); }
.scores small { font-size: .9rem; font-weight: 400; color: var(--faint); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; border-top: 1px solid var(--line); padding-top: .8rem; }
nav a { text-decoration: none; font-size: .92rem; }
nav a:hover { text-decoration: underline; }
figure { margin: 0 0 1rem; }
figure img {
  display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px;
}
figcaption { margin-top: .4rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; align-items: start; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { color: var(--faint); font-weight: 500; }
th:first-child { text-align: left; font-weight: 500; }
.swatch {
  display: inline-block; width: .85em; height: .85em; margin-right: .55em; border-radius: 3px; vertical-align: -.05em;
  border: 1px solid rgba(128, 128, 128, .5);
}
.iou { width: 45%; min-width: 9rem; }
.iou b { font-weight: 600; display: inline-block; min-width: 2.6em; }
.bar {
  display: inline-block; width: calc(100% - 3.4em); height: .6em; margin-right: .6em; border-radius: 4px; overflow: hidden;
  background: var(--track); vertical-align: .02em;
}
.bar i { display: block; height: 100%; background: var(--accent); }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); padding: .4rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; }
code { font: .9em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); column-gap: 2.5rem; }
.facts > div { display: flex; gap: 1rem; justify-content: space-between; border-bottom: 1px solid var(--line); padding: .35rem 0; }
.facts dt { color: var(--faint); }
.facts dd { text-align: right; overflow-wrap: anywhere; min-width: 40%; }
@media (max-width: 560px) {
  body { padding: 1.2rem .9rem 3rem; }
  .classes th, .classes td { padding: .35rem .4rem; }
  .iou { min-width: 7rem; }
  .more { display: none; }
}
@media print {
  body { max-width: none; padding: 0; }
  nav { display: none; }
  section, figure { break-inside: avoid-page; }
}
"""
