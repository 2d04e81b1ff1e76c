/** What is asked for besides the picture: an engine, and what was moved away from its defaults. Outlives a reload. */

import { recall, remember } from "./memory.js";

export class Settings {
  constructor() {
    this.list = null; // GET /engines, once it has answered
    this.chosen = recall("settings") ?? { engine: null, changed: {} };
  }

  /** The chosen one, or where that cannot run here one that can. */
  get engine() {
    const candidates = [this.named(this.chosen.engine), this.named(this.list.default), ...this.list.engines];
    return candidates.find((engine) => engine?.available) ?? this.named(this.list.default);
  }

  named(name) {
    return this.list?.engines.find((engine) => engine.name === name);
  }

  /** Every parameter that has a value, by name. */
  get values() {
    const { limits, defaults } = this.engine;
    const changed = Object.entries(this.chosen.changed).filter(([name, value]) => name in limits && fits(value, limits[name]));
    return { ...defaults, ...Object.fromEntries(changed) };
  }

  /** What to ask for: only what is not as the engine has it. */
  get fields() {
    const { name, defaults } = this.engine;
    const given = Object.entries(this.values).filter(([field, value]) => value !== defaults[field]);
    return { engine: name, ...Object.fromEntries(given) };
  }

  choose(engine) {
    this.chosen.engine = engine;
    remember("settings", this.chosen);
  }

  set(name, value) {
    if (value === undefined || value === this.engine.defaults[name]) delete this.chosen.changed[name];
    else this.chosen.changed[name] = value;
    remember("settings", this.chosen);
  }
}

function fits(value, { choices, minimum, maximum, multiple_of: step = 0 }) {
  if (choices) return choices.includes(value);
  return value >= minimum && value <= maximum && !(step && value % step);
}
