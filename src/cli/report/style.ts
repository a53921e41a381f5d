// SPDX-License-Identifier: Apache-2.0
// How a report looks, by day and by night.

export const STYLE = `
:root{--page:#f6f7f9;--card:#fff;--text:#1b1f27;--sub:#5b6472;--line:#e1e4ea;--none:#e6e9ee;
--held:#9aa3b2;--demand:#dc4a2b;--ahead:#2f74d0;--prefetch:#2f9e62;--wait:#dc4a2b}
@media (prefers-color-scheme:dark){:root{--page:#12151b;--card:#1a1e26;--text:#e7eaf0;--sub:#9ba5b5;
--line:#2c323d;--none:#262c36;--held:#6b7587;--demand:#ff7a5c;--ahead:#66a6ff;--prefetch:#56c98b;--wait:#ff7a5c}}
::selection{background:rgba(90,150,255,.35)}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1140px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 8px}
.sub{color:var(--sub);font-size:13px;margin:4px 0}
code{font:12px/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere;color:var(--sub)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin-top:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile dt{color:var(--sub);font-size:13px}
.tile dd{margin:0;font-size:21px;font-weight:600}
.tile dd.sub{font-size:13px;font-weight:400}
figure{margin:14px 0 0}
figcaption{font-size:13px;margin-bottom:6px}
svg{display:block;width:100%;height:auto}
.wide{overflow-x:auto}
.fall{min-width:760px;font:11px system-ui,"DejaVu Sans",sans-serif;margin-top:8px}
.label{fill:var(--text)}
.value{fill:var(--sub);font-size:10px}
.tick{stroke:var(--line)}
.none{fill:var(--none);background:var(--none)}
.held{fill:var(--held);background:var(--held)}
.demand{fill:var(--demand);background:var(--demand)}
.ahead{fill:var(--ahead);background:var(--ahead)}
.prefetch{fill:var(--prefetch);background:var(--prefetch)}
.fetch{opacity:.45}
.wait{fill:var(--wait)}
.legend{display:flex;flex-wrap:wrap;gap:6px 18px;font-size:13px;color:var(--sub);margin:4px 0 0;align-items:center}
.legend span{display:inline-flex;align-items:center;gap:6px}
.ramp{display:inline-block;width:120px;height:10px;border-radius:3px}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px}
.swatch.demand,.swatch.ahead,.swatch.prefetch{height:5px}
table{border-collapse:collapse;width:100%;font-size:13px}
th{text-align:right;color:var(--sub);font-weight:500;border-bottom:1px solid var(--line);padding:4px 8px;white-space:nowrap}
td{text-align:right;border-bottom:1px solid var(--line);padding:4px 8px;white-space:nowrap;font-variant-numeric:tabular-nums}
th:first-child,td.path{text-align:left}
td.path{white-space:normal;overflow-wrap:anywhere;min-width:220px}
td.bar{width:22%;min-width:90px}
td.bar i{display:block;height:9px;border-radius:3px;background:var(--wait);min-width:1px}
tbody tr:last-child td{border-bottom:0}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
`;
