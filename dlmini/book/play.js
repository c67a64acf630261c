// What a figure of `dl.plot.play` runs in the page. A scene turns its settings into marks (points to
// draw), numbers and words; play.py holds its twin, which draws the first picture. The runtime moves
// the marks when a slider, the handle or the keyboard changes a setting.

const TOO_LARGE = 1e12, TARGET = 1e-6;

// v ← μ v + h θ, θ ← θ − η v: the points and each direction's part ½ h θ² of the loss.
function walk(h, start, lr, momentum, steps) {
  const points = [], parts = [], sum = p => p.reduce((a, b) => a + b, 0);
  let theta = start.slice(), v = h.map(() => 0), bound = Infinity;
  for (let t = 0; t <= steps; t++) {
    const part = theta.map((x, i) => h[i] * x * x / 2);
    points.push(theta);
    parts.push(part);
    if (!t) bound = TOO_LARGE * (sum(part) || 1);
    if (sum(part) >= bound) break;
    v = v.map((w, i) => momentum * w + h[i] * theta[i]);
    theta = theta.map((x, i) => x - lr * v[i]);
  }
  return {points, parts, loss: parts.map(sum)};
}

// The factor by which a direction's error shrinks per step in the long run.
function rate(reach, momentum) {
  const b = 1 + momentum - reach, d = b * b - 4 * momentum;
  return d < 0 ? Math.sqrt(momentum) : (Math.abs(b) + Math.sqrt(d)) / 2;
}

function outcome(loss, rates, steps) {
  const first = loss[0] || 1, worst = Math.max(0, ...rates);
  const reached = loss.findIndex(x => x <= TARGET * first);
  const left = loss[loss.length - 1] / first;
  const end = worst > 1 + 1e-9 ? 'diverges' : worst < 1 - 1e-9 ? 'descends' : 'neither falls nor grows';
  return {
    numbers: {left, reached: reached < 0 ? null : reached},
    says: {
      left: left < TOO_LARGE ? num(left) : 'over ' + num(TOO_LARGE),
      reached: reached < 0 ? `not in ${steps} steps` : `after ${reached} steps`,
      end,
    },
  };
}

const curve = (values, first) => values.map((y, t) => [t, y / (first || 1)]);

function num(x) {
  if (!x) return '0';
  const [m, e] = x.toExponential(2).split('e'), raised = c => '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'['-0123456789'.indexOf(c)];
  const text = e > -5 && e < 3 ? String(+x.toPrecision(3))
    : (+m === 1 ? '' : +m + '×') + '10' + String(+e).replace(/./g, raised);
  return text.replace('-', '−');
}

// scene: valley
function valley({lr, momentum, kappa, start, steps}) {
  const h = [1, kappa], eta = lr / kappa;
  const {points, parts, loss} = walk(h, start, eta, momentum, steps);
  const {numbers, says} = outcome(
    loss, h.filter((_, i) => start[i]).map(x => rate(eta * x, momentum)), steps);
  return {
    role: momentum ? 'momentum' : 'gd',
    marks: {
      land: [...Array(10).keys()].map(k => [0, 0, 1.5 ** k, 1.5 ** k / Math.sqrt(kappa)]),
      minimum: [[-0.25, 0], [0.25, 0], null, [0, -0.25], [0, 0.25]],
      shallow: curve(parts.map(p => p[0]), loss[0]),
      steep: curve(parts.map(p => p[1]), loss[0]),
      loss: curve(loss, loss[0]),
      path: points, steps: points, end: points.slice(-1), start: points[0],
    },
    numbers: {lr: eta, ...numbers},
    says: {lr: num(eta), ...says},
  };
}

// scene: parabola
function parabola({lr, curvature, start, steps}) {
  const eta = lr / curvature, height = x => curvature * x * x / 2;
  const {points, loss} = walk([curvature], start, eta, 0, steps);
  const {numbers, says} = outcome(loss, start[0] ? [rate(lr, 0)] : [], steps);
  const hops = points.map(p => [p[0], height(p[0])]);
  const error = curve(points.map(p => Math.abs(p[0])), Math.abs(start[0]));
  return {
    role: 'gd',
    marks: {
      curve: [...Array(69).keys()].map(k => (k - 34) / 10).map(x => [x, height(x)]),
      error, errors: error,
      path: hops, steps: hops, end: hops.slice(-1), start: hops[0],
    },
    numbers: {lr: eta, ...numbers},
    says: {lr: num(eta), ...says},
  };
}

// runtime
function run(root, scene) {
  const all = css => [...root.querySelectorAll(css)], one = css => root.querySelector(css);
  const {state, panels, marks, sliders, drag} = JSON.parse(one('.dl-config').textContent);
  const image = one('img'), stage = one('.dl-stage'), inputs = all('input'), first = {...state};
  stage.innerHTML = decodeURIComponent(image.src.slice(image.src.indexOf(',') + 1));
  image.style.display = 'none';
  const svg = one('svg'), handle = one('[data-mark=start]'), width = svg.viewBox.baseVal.width;
  svg.setAttribute('role', 'group');
  svg.setAttribute('aria-label', image.alt);
  let later;

  const place = (p, [x, y]) => {
    const [left, top, w, h] = p.box, level = v => p.log ? Math.log10(v) : v;
    return [left + (x - p.x[0]) / (p.x[1] - p.x[0]) * w,
      top + (level(p.y[1]) - level(y)) / (level(p.y[1]) - level(p.y[0])) * h]
      .map(v => Math.round(v * 10) / 10);
  };
  const line = (p, points) => {
    let pen = 'M';
    return points.map(q => {
      const at = q && place(p, q), drawn = at && isFinite(at[1]), text = drawn ? pen + at : '';
      pen = drawn ? 'L' : 'M';
      return text;
    }).join('');
  };
  const path = (p, points) => {  // to the first point outside from which none comes back
    const inside = ([x, y]) => p.x[0] <= x && x <= p.x[1] && p.y[0] <= y && y <= p.y[1];
    return line(p, points.slice(0, points.map(inside).lastIndexOf(true) + 2));
  };
  const dots = (p, points) =>
    points.map(q => place(p, q)).filter(q => isFinite(q[1])).map(q => `M${q}h0`).join('');
  const ring = (p, [x, y, a, b]) => {  // all that lies outside an ellipse
    const [cx, cy] = place(p, [x, y]), [u, v] = place(p, [x + a, y + b]), arc = `A${u - cx} ${cy - v} 0 0 0 `;
    return `M-9-9H999V999H-9ZM${u},${cy}${arc}${2 * cx - u},${cy}${arc}${u},${cy}Z`;
  };
  const put = (id, value) => {
    const [panel, kind] = marks[id], p = panels[panel], at = one(`[data-mark=${id}]`);
    if (kind === 'handle') at.setAttribute('transform', `translate(${place(p, value)})`);
    else if (kind === 'rings') value.forEach((r, i) => at.children[i].setAttribute('d', ring(p, r)));
    else at.setAttribute('d', {line, path, dots}[kind](p, value));
  };

  function show() {
    const now = scene(state);
    for (const id in now.marks) put(id, now.marks[id]);
    one('[data-run]').setAttribute('class', 'dl-' + now.role);
    for (const key in now.says) one(`[data-number=${key}]`).textContent = now.says[key];
    inputs.forEach((input, i) => {
      const text = num(state[sliders[i].key]);
      input.setAttribute('aria-valuetext', text);
      all('output')[i].textContent = text;
    });
    if (handle) {
      handle.setAttribute('aria-valuenow', state.start[0]);
      handle.setAttribute('aria-valuetext',
        drag.names.map((n, i) => `${n} = ${num(state.start[i])}`).join(', '));
    }
    clearTimeout(later);  // a screen reader hears the outcome once the hand rests
    later = setTimeout(() => {
      one('.dl-heard').textContent = all('.dl-numbers span').map(s => s.textContent).join('; ');
    }, 700);
    root.dlState = () => JSON.parse(JSON.stringify({state, ...now}));
  }

  inputs.forEach((input, i) => {
    const {key, log, digits} = sliders[i];
    input.disabled = false;
    input.oninput = () => {  // rounded: the value that is shown is the value that is used
      state[key] = +(log ? (10 ** input.value).toPrecision(2) : (+input.value).toFixed(digits));
      show();
    };
  });
  one('button').disabled = false;
  one('button').onclick = () => {
    Object.assign(state, first);
    inputs.forEach(input => { input.value = input.defaultValue; });
    show();
  };

  if (handle) dragged(panels[marks.start[0]]);
  show();
  clearTimeout(later);

  function dragged(p) {
    const [left, top, w, h] = p.box, ends = [p.x, p.y];
    const label = {role: 'slider', tabindex: 0, 'aria-valuemin': p.x[0], 'aria-valuemax': p.x[1],
      'aria-label': 'start; drag it, or move it with the arrow keys'};
    for (const name in label) handle.setAttribute(name, label[name]);
    const move = point => {
      state.start = state.start.map((_, i) =>
        +Math.min(ends[i][1], Math.max(ends[i][0], point[i])).toFixed(2));
      one('.dl-hint').style.display = 'none';
      show();
    };
    const pointer = e => {
      const r = svg.getBoundingClientRect(), scale = width / r.width;
      return [p.x[0] + ((e.clientX - r.left) * scale - left) / w * (p.x[1] - p.x[0]),
        p.y[1] - ((e.clientY - r.top) * scale - top) / h * (p.y[1] - p.y[0])];
    };
    let grip = null;  // from the pointer to the start
    handle.onpointerdown = e => {
      if (e.button) return;
      const at = pointer(e);
      grip = state.start.map((x, i) => x - at[i]);
      handle.setPointerCapture(e.pointerId);
      e.preventDefault();
      handle.focus({preventScroll: true});
    };
    handle.onpointermove = e => {
      const at = pointer(e);
      if (grip) move(grip.map((x, i) => x + at[i]));
    };
    handle.onpointerup = handle.onpointercancel = () => { grip = null; };
    handle.ontouchstart = e => e.preventDefault();  // where touch-action is not seen inside an SVG
    handle.onkeydown = e => {
      const by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1]}[e.key];
      if (!by || e.ctrlKey || e.metaKey || e.altKey) return;
      const step = drag.step * (e.shiftKey ? 4 : 1), flat = state.start.length < 2;
      move(state.start.map((x, i) => x + step * (flat ? by[0] || by[1] : by[i])));
      e.preventDefault();
      e.stopPropagation();
    };
  }
}
