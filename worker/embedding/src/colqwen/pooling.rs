//! Token pooling: merges a page's vectors into fewer, as colpali-engine's hierarchical pooler does.
//! Clusters the rows of `1 - E E^T` by Ward's method, cuts the tree at a number of clusters, and
//! normalises the mean of each cluster. Host only; quadratic in the number of tokens.

/// Pools `vectors` (unit vectors of `width` values): divides their number by `factor`, rounding
/// down to at least 1. A factor of 0 or 1, or a single vector, changes nothing.
#[must_use]
pub fn pool(vectors: &[f32], width: usize, factor: usize) -> Vec<f32> {
    let count = vectors.len().checked_div(width).unwrap_or(0);
    if factor <= 1 || count <= 1 {
        return vectors.to_vec();
    }
    let clusters = (count / factor).max(1);
    let labels = cut_tree(&ward(&distances(vectors, width)), count, clusters);
    means(vectors, width, &labels)
}

/// One step of clustering: merges clusters `low` and `high` at this height. Numbers below the
/// number of vectors are single vectors; larger ones are earlier steps.
#[derive(Clone, Copy)]
struct Merge {
    low: usize,
    high: usize,
    height: f64,
}

/// Euclidean distances between the rows of `1 - E E^T`: the reference passes this distance matrix
/// to a function that treats its rows as points.
struct Distances {
    count: usize,
    values: Vec<f64>,
}

impl Distances {
    fn index(&self, a: usize, b: usize) -> usize {
        a * self.count + b
    }

    fn get(&self, a: usize, b: usize) -> f64 {
        self.values[self.index(a, b)]
    }

    fn set(&mut self, a: usize, b: usize, value: f64) {
        let (entry, mirrored) = (self.index(a, b), self.index(b, a));
        self.values[entry] = value;
        self.values[mirrored] = value;
    }
}

fn distances(vectors: &[f32], width: usize) -> Distances {
    let rows: Vec<&[f32]> = vectors.chunks_exact(width).collect();
    let count = rows.len();
    let mut points = vec![0.0; count * count];
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows[..=i].iter().enumerate() {
            let product: f32 = a.iter().zip(*b).map(|(x, y)| x * y).sum();
            let value = f64::from(1.0 - product);
            points[i * count + j] = value;
            points[j * count + i] = value;
        }
    }
    let mut distances = Distances {
        count,
        values: vec![0.0; count * count],
    };
    for i in 0..count {
        let a = &points[i * count..(i + 1) * count];
        for j in 0..i {
            let b = &points[j * count..(j + 1) * count];
            let square: f64 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
            distances.set(i, j, square.sqrt());
        }
    }
    distances
}

/// Ward's method by nearest-neighbour chains; returns merges in order of height.
fn ward(initial: &Distances) -> Vec<Merge> {
    let count = initial.count;
    let mut distances = Distances {
        count,
        values: initial.values.clone(),
    };
    let mut size = vec![1_usize; count];
    let mut chain: Vec<usize> = Vec::with_capacity(count);
    let mut merges: Vec<Merge> = Vec::with_capacity(count - 1);
    while merges.len() + 1 < count {
        if chain.is_empty() {
            chain.extend(size.iter().position(|size| *size > 0));
        }
        let (x, y, height) = nearest_pair(&distances, &size, &mut chain);
        let (low, high) = (x.min(y), x.max(y));
        merges.push(Merge { low, high, height });
        let (low_size, high_size) = (size[low], size[high]);
        size[low] = 0;
        size[high] = low_size + high_size;
        for other in (0..count).filter(|other| size[*other] > 0 && *other != high) {
            let share = 1.0 / (low_size + high_size + size[other]) as f64;
            let (a, b) = (distances.get(other, low), distances.get(other, high));
            let square = (size[other] + low_size) as f64 * share * a * a
                + (size[other] + high_size) as f64 * share * b * b
                - size[other] as f64 * share * height * height;
            distances.set(other, high, square.sqrt());
        }
    }
    merges.sort_by(|a, b| a.height.total_cmp(&b.height));
    relabel(&mut merges, count);
    merges
}

/// Follows the chain to a pair of reciprocal nearest neighbours and removes them from it.
fn nearest_pair(
    distances: &Distances,
    size: &[usize],
    chain: &mut Vec<usize>,
) -> (usize, usize, f64) {
    loop {
        let x = *chain.last().expect("the chain starts with a cluster");
        // The previous cluster wins ties, else the chain could become a cycle.
        let previous = chain.len().checked_sub(2).map(|index| chain[index]);
        let mut best = previous.map(|y| (y, distances.get(x, y)));
        for y in (0..size.len()).filter(|y| size[*y] > 0 && *y != x) {
            let distance = distances.get(x, y);
            if best.is_none_or(|(_, least)| distance < least) {
                best = Some((y, distance));
            }
        }
        let (y, distance) = best.expect("at least two clusters remain");
        if Some(y) == previous {
            chain.truncate(chain.len() - 2);
            return (x, y, distance);
        }
        chain.push(y);
    }
}

/// Numbers clusters by the step that created them, in order of height.
fn relabel(merges: &mut [Merge], count: usize) {
    let mut parent: Vec<usize> = (0..count + merges.len()).collect();
    let root = |parent: &[usize], mut node: usize| {
        while parent[node] != node {
            node = parent[node];
        }
        node
    };
    for (step, merge) in merges.iter_mut().enumerate() {
        let (a, b) = (root(&parent, merge.low), root(&parent, merge.high));
        (merge.low, merge.high) = (a.min(b), a.max(b));
        parent[a] = count + step;
        parent[b] = count + step;
    }
}

/// The cluster of every vector, numbered as in the reference: depth first, the lower child first,
/// single vectors after the clusters below the same node.
fn cut_tree(merges: &[Merge], count: usize, clusters: usize) -> Vec<usize> {
    // Merges are in order of height; the last ones are undone.
    let kept = count - clusters;
    // A threshold on the height keeps or undoes merges of equal height together.
    let limit = merges[kept - 1].height;
    let mut labels = vec![0; count];
    let mut next = 0;
    let mut stack = vec![Visit::Enter(count + merges.len() - 1)];
    while let Some(visit) = stack.pop() {
        match visit {
            Visit::Enter(node) => {
                let merge = merges[node - count];
                if merge.height <= limit {
                    label(merges, count, node, next, &mut labels);
                    next += 1;
                    continue;
                }
                stack.push(Visit::Leave(node));
                let children = [merge.high, merge.low]
                    .into_iter()
                    .filter(|child| *child >= count);
                stack.extend(children.map(Visit::Enter));
            }
            Visit::Leave(node) => {
                let merge = merges[node - count];
                for leaf in [merge.low, merge.high]
                    .into_iter()
                    .filter(|child| *child < count)
                {
                    labels[leaf] = next;
                    next += 1;
                }
            }
        }
    }
    labels
}

enum Visit {
    Enter(usize),
    Leave(usize),
}

/// Labels every vector below `node` with `cluster`.
fn label(merges: &[Merge], count: usize, node: usize, cluster: usize, labels: &mut [usize]) {
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        if node < count {
            labels[node] = cluster;
        } else {
            let merge = merges[node - count];
            open.extend([merge.low, merge.high]);
        }
    }
}

fn means(vectors: &[f32], width: usize, labels: &[usize]) -> Vec<f32> {
    let clusters = labels.iter().max().map_or(0, |last| last + 1);
    let mut pooled = vec![0.0_f32; clusters * width];
    let mut sizes = vec![0_usize; clusters];
    for (vector, &cluster) in vectors.chunks_exact(width).zip(labels) {
        sizes[cluster] += 1;
        for (sum, value) in pooled[cluster * width..].iter_mut().zip(vector) {
            *sum += value;
        }
    }
    for (row, size) in pooled.chunks_exact_mut(width).zip(sizes) {
        for value in row.iter_mut() {
            *value /= size as f32;
        }
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        for value in row.iter_mut() {
            *value /= length.max(1e-12);
        }
    }
    pooled
}
