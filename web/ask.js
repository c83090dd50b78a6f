// The page's way to the network. It begins to load with the page.

import { questions } from "./questions.js";

export const ask = questions(new URL("seeing.js", import.meta.url));
