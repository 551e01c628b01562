export function buildEntry(source: string, target: string): Promise<void>;
