//! Where the maps of a plan lie: maps that are never needed at once share a slot.

use super::Map;
use super::step::Step;
use crate::Real;
use crate::aligned::Aligned;

/// Which slot each map has, and how large the slots are.
#[derive(Debug)]
pub(super) struct Layout {
    /// Elements of each map, an image.
    lens: Vec<usize>,
    /// The slot of each map; the input has none.
    slots: Vec<usize>,
    /// Elements of each slot, an image.
    capacities: Vec<usize>,
}

impl Layout {
    /// For maps of `lens` elements an image. A map lives from the step that makes it to the last one that reads it.
    pub fn new<T: Real>(lens: &[usize], steps: &[Step<T>], output: Map) -> Self {
        let mut last = vec![0; lens.len()];
        for (at, step) in steps.iter().enumerate() {
            step.maps().iter().for_each(|map| last[map.0] = at);
        }
        last[output.0] = steps.len();
        let mut layout = Layout { lens: lens.to_vec(), slots: vec![usize::MAX; lens.len()], capacities: Vec::new() };
        let mut free: Vec<usize> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            for map in step.maps() {
                if map.0 > 0 && layout.slots[map.0] == usize::MAX {
                    layout.slots[map.0] = layout.place(lens[map.0], &mut free);
                }
            }
            for map in step.maps() {
                let slot = layout.slots[map.0];
                if map.0 > 0 && last[map.0] == at && !free.contains(&slot) {
                    free.push(slot);
                }
            }
        }
        layout
    }

    /// The free slot that has to grow least, then the smallest; a new one if there is none.
    fn place(&mut self, len: usize, free: &mut Vec<usize>) -> usize {
        let cost = |&slot: &usize| (len.saturating_sub(self.capacities[slot]), self.capacities[slot]);
        match free.iter().enumerate().min_by_key(|(_, slot)| cost(slot)).map(|(at, _)| at) {
            Some(at) => {
                let slot = free.swap_remove(at);
                self.capacities[slot] = self.capacities[slot].max(len);
                slot
            }
            None => {
                self.capacities.push(len);
                self.capacities.len() - 1
            }
        }
    }

    /// Elements of all slots, an image.
    pub fn elements(&self) -> usize {
        self.capacities.iter().sum()
    }
}

/// The memory of a piece.
#[derive(Debug)]
pub(super) struct Slots<T>(Vec<Aligned<T>>);

impl<T: Real> Slots<T> {
    /// For up to `images` images.
    pub fn new(layout: &Layout, images: usize) -> Self {
        Slots(layout.capacities.iter().map(|capacity| Aligned::zeros(capacity * images)).collect())
    }

    /// The memory while `images` images `x` run through it.
    pub fn view<'a>(&'a mut self, layout: &'a Layout, x: &'a [T], images: usize) -> View<'a, T> {
        View { slots: &mut self.0, layout, x, images }
    }
}

/// The maps of a piece.
pub(super) struct View<'a, T> {
    slots: &'a mut [Aligned<T>],
    layout: &'a Layout,
    x: &'a [T],
    /// Images of the piece.
    pub images: usize,
}

impl<T: Real> View<'_, T> {
    /// The elements of `map`.
    pub fn read(&self, map: Map) -> &[T] {
        match map.0 {
            0 => self.x,
            at => &self.slots[self.layout.slots[at]][..self.layout.lens[at] * self.images],
        }
    }

    /// Calls `write` with the elements of `map`, and the view for reading others.
    pub fn write(&mut self, map: Map, write: impl FnOnce(&mut Self, &mut [T])) {
        let (slot, len) = (self.layout.slots[map.0], self.layout.lens[map.0] * self.images);
        let mut memory = std::mem::take(&mut self.slots[slot]);
        write(self, &mut memory[..len]);
        self.slots[slot] = memory;
    }
}
